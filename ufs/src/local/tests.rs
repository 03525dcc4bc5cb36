//! Tests of what is particular to directories; what all stores share is in the contract suite.
