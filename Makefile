# culvert: what a developer or an operator types. `make help` lists it.
SHELL := /bin/bash
CARGO ?= cargo
.DEFAULT_GOAL := all
.PHONY: all help deps check test e2e demo interop kernel-peer bench bench-full fuzz soak order loom miri install clean

all: ## build everything in release mode
	$(CARGO) build --release --workspace

help: ## this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

deps: ## install the Debian packages that building and testing need
	@deploy/install-deps.sh

check: deps ## formatting, lints, import rules, unsafe rule
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	.ci/check-imports
	.ci/check-unsafe

test: deps loom ## every test; those with the real processes run in network namespaces
	.ci/test
	controlplane/tests/interop/run.sh --quick

demo: deps ## two sites, a real IKEv2 tunnel, real traffic (KEEP=1 leaves it running)
	deploy/demo.sh

interop: deps all ## the whole table against strongSwan, and native ESP against a Linux kernel
	controlplane/tests/interop/run.sh
	dataplane/tests/kernel-peer/run.sh

kernel-peer: deps all ## native ESP against a Linux kernel in an emulated machine
	dataplane/tests/kernel-peer/run.sh

bench: deps all ## a part of the benchmarks, under five minutes, as root
	target/release/culvert-bench all --runs 5 --only crypto --only contract
	target/release/culvert-bench compare --sas 1,1000 --sizes 64,1420 --runs 3

bench-full: deps all ## all benchmarks, hours, as root: bench-*.json
	target/release/culvert-bench all --json bench-all.json
	target/release/culvert-bench control --json bench-control.json
	target/release/culvert-bench dataplane --sas 1000 --workers 2 --json bench-workers.json
	target/release/culvert-bench latency --sas 1000 --json bench-latency.json
	$(CARGO) bench -p culvert-bench
	target/release/culvert-bench compare --full --runs 5 --json bench-compare.json

e2e: deps all ## rekey storms, kills and transfers at full length (about three minutes)
	CULVERT_E2E=full $(CARGO) nextest run --release -p culvert-bench --no-fail-fast

fuzz: deps ## one minute for each fuzz target
	.ci/fuzz

soak: deps all ## ten million random and mutated frames and IKE messages
	.ci/soak

order: deps ## ten million packets of one SA through two gateways, lent or not: none is lost or overtaken
	CULVERT_ORDER_PACKETS=10000000 $(CARGO) test --quiet --release -p culvert-dataplane --lib order:: -- --test-threads=1

loom: ## model-check the shared-memory ring
	RUSTFLAGS="--cfg loom" $(CARGO) test --quiet --target-dir target/loom -p api --lib ring::

miri: ## the portable crypto under miri, with a nightly compiler that is fetched (three minutes)
	rustup toolchain install nightly --profile minimal --component miri,rust-src
	MIRIFLAGS=-Zmiri-disable-isolation $(CARGO) +nightly miri test --quiet --target-dir target/miri -p crypto --lib --test esp_vectors

install: all ## binaries to $(DESTDIR)/usr/local/bin
	install -D -m 755 -t $(DESTDIR)/usr/local/bin target/release/culvert-dataplane target/release/culvert-ike target/release/culvert

clean: ## remove what was built
	$(CARGO) clean
