# `make demo` shows what Larder does, `make test` proves it. Both set up what they need.
CARGO ?= cargo
UFS ?= /usr/share/doc

.PHONY: help demo test check build setup deny bless clean

help:
	@echo "make demo [UFS=DIR]  read a directory of real files through Larder, cold and warm, beside a plain read"
	@echo "make test            every test, formatting, lints, licences"
	@echo "make check           the loop for a change: formatting, lints, fast tests"
	@echo "make build           the release binary: target/release/larder"
	@echo "make bless           write the documents that are generated from the code"

setup:
	@scripts/setup

build: setup
	$(CARGO) build --release --locked --bin larder

demo: build
	@target/release/larder demo --ufs $(UFS)

check: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --workspace --lib --locked

test: setup
	@scripts/test

bless: setup
	LARDER_BLESS=1 $(CARGO) test --locked -p larder-common --lib settings

clean:
	$(CARGO) clean
