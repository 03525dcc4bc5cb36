//! Compiles the `.proto` files without a `protoc` on the machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["types", "filesystem", "workers", "blocks", "shortcircuit", "admin", "jobs"]
        .map(|name| format!("proto/{name}.proto"));
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
