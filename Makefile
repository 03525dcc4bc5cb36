# `make demo` shows what Larder does, `make test` proves it. Both set up what they need.
CARGO ?= cargo
UFS ?= /usr/share/doc
# The release is one static binary for this machine's architecture: it runs in any image, also in an empty one.
TARGET := $(shell uname -m)-unknown-linux-gnu
VERSION := $(shell sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
RELEASE := larder-$(VERSION)-$(shell uname -m)-linux
TREE ?= target/dist/$(RELEASE)

.PHONY: help demo test check build tree dist setup deny bless clean

help:
	@echo "make demo [UFS=DIR]  read a directory of real files through Larder, cold, warm and mounted, beside a plain read"
	@echo "make test            every test, formatting, lints, licences"
	@echo "make check           the loop for a change: formatting, lints, fast tests"
	@echo "make build           the release binary, static: target/release/larder"
	@echo "make dist            the release tarball, from which \`cd docker; docker build -t larder .\` makes the image"
	@echo "make bless           write what is generated from the code: documents, golden lines of what is new"

setup:
	@scripts/setup

build: setup
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked --target $(TARGET) --bin larder
	@mkdir -p target/release
	@ln -f target/$(TARGET)/release/larder target/release/larder

# What a release holds, in TREE.
tree: build
	@rm -rf "$(TREE)"
	@mkdir -p "$(TREE)/bin" "$(TREE)/docs"
	@install -m 755 target/release/larder "$(TREE)/bin/larder"
	@strip "$(TREE)/bin/larder" 2>/dev/null || true
	@ln -s larder "$(TREE)/bin/alluxio"
	@cp README.md LICENSE "$(TREE)/"
	@cp docs/*.md "$(TREE)/docs/"
	@cp docker/README.md "$(TREE)/docs/docker.md"

dist: tree
	@rm -f docker/larder-*.tar.gz
	@tar -C target/dist --owner=0 --group=0 -czf docker/$(RELEASE).tar.gz $(RELEASE)
	@echo docker/$(RELEASE).tar.gz

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
	LARDER_BLESS=1 $(CARGO) test --locked -p larder-master -p larder-worker --lib golden

clean:
	$(CARGO) clean
