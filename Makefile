# `make` lists what there is. Each target does its own set-up; Rust and python3 are all it takes for granted.
CARGO ?= cargo
# Set by `make torture`: how often the daemon is killed under load.
TORTURE_ROUNDS ?= 200
LIES_SECONDS ?= 540
# Set by `make fuzz`: seconds for each target.
FUZZ_SECONDS ?= 20
# What the random tests draw from: the same number, the same draws. `make test` says it, and takes it.
SEED := $(or $(SEED),$(strip $(shell od -An -N3 -tu4 /dev/urandom)))
export SEED
# The same number for proptest, which has a variable of its own.
export PROPTEST_RNG_SEED := $(SEED)
# Set to 1, it makes a failure of everything that would be skipped.
REQUIRE_ALL ?=
export REQUIRE_ALL
# What a run skipped, a line each; tests/shared.rs adds to it too.
SKIPPED = $(or $(CARGO_TARGET_DIR),target)/tmp/skipped
skip = { mkdir -p $(dir $(SKIPPED)) && echo "skipped: $(1)" | tee -a $(SKIPPED) && \
	{ [ -z "$(REQUIRE_ALL)" ] || { echo "REQUIRE_ALL is set, so that is a failure"; false; }; }; }
# The oldest Rust that it is said to build with.
MSRV := $(shell sed -n 's/^rust-version = "\([0-9.]*\)".*/\1/p' Cargo.toml)
# What a program comes to.
SIZE = ls -l $(1) | awk '{ printf "%s: %.1f MiB\n", $$NF, $$5 / 1048576 }'

.PHONY: help run test tests lint deny msrv build release static deb deb-test vm-test torture scenarios pictures fuzz bench bench-micro bench-instructions clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## try it: the daemon, a Blueflood stand-in, and this host's own figures; Ctrl-C ends it; GRAPHITE=port SINK=host:port STATS=host:port
	@config/try.sh target/debug/blueflood-forward

test: ## everything that must hold; REQUIRE_ALL=1 lets nothing be skipped, SEED=n draws again what was random
	@rm -f $(SKIPPED); echo "SEED=$(SEED)"
	@$(MAKE) --no-print-directory lint tools tests; result=$$?; \
		[ ! -s $(SKIPPED) ] || sort -u $(SKIPPED); \
		echo "SEED=$(SEED) make test: what was random is drawn as in this run"; exit $$result

tests:
	$(CARGO) test --workspace --features faults

lint: components ## format, clippy, docs, dependencies and the oldest Rust, every warning an error
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --workspace --all-targets --features faults -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	@$(MAKE) --no-print-directory deny
	@if rustup toolchain list 2>/dev/null | grep -q '^$(MSRV)-'; then $(MAKE) --no-print-directory msrv; else \
		$(call skip,Rust $(MSRV) is not installed here: make msrv installs it); fi

# .deny.toml says what is allowed.
deny: ## the dependencies: licences, advisories, second versions (cargo-deny)
	@if ! command -v cargo-deny >/dev/null; then \
		$(call skip,no cargo-deny here: cargo install --locked cargo-deny); \
	else $(CARGO) deny --locked --log-level warn check licenses bans sources && \
		if $(CARGO) deny --locked fetch db >/dev/null 2>&1; then \
			$(CARGO) deny --locked --log-level warn check --disable-fetch advisories; \
		else $(call skip,the advisories on the dependencies: their database cannot be reached); fi; fi

# In a folder of its own, or each change of compiler would build all anew.
msrv: ## that it builds with the oldest Rust that Cargo.toml claims
	@rustup toolchain list 2>/dev/null | grep -q '^$(MSRV)-' || rustup toolchain install $(MSRV) --profile minimal
	rustup run $(MSRV) cargo check --locked --workspace --all-targets --features faults --target-dir target/msrv

build: ## the program, for trying: target/debug/blueflood-forward
	$(CARGO) build

release: ## the program, for use: target/release/blueflood-forward
	$(CARGO) build --release
	@$(call SIZE,target/release/blueflood-forward)

# musl's allocator is slower under load, so this is for hosts whose libc is too old or not glibc.
MUSL = $(shell uname -m)-unknown-linux-musl
static: ## the program for any Linux, without a libc: needs musl-gcc (Debian's musl-tools)
	@rustup target list --installed 2>/dev/null | grep -qx $(MUSL) || rustup target add $(MUSL) || \
		{ echo "$(MUSL) is not installed, and cannot be had from here"; exit 1; }
	@command -v musl-gcc >/dev/null || { echo "no musl-gcc here: SQLite and ring need it (apt install musl-tools)"; exit 1; }
	CC_$(subst -,_,$(MUSL))=musl-gcc $(CARGO) build --release --target $(MUSL)
	@$(call SIZE,target/$(MUSL)/release/blueflood-forward)

# What is packaged: another program may be named, the static one say.
PROGRAM ?= target/release/blueflood-forward
deb: $(PROGRAM) ## a Debian package: target/deb/blueflood-forward_*.deb
	@config/deb/build $(PROGRAM) target/deb

# Cargo knows what is up to date.
.PHONY: target/release/blueflood-forward
target/release/blueflood-forward:
	$(CARGO) build --release

deb-test: deb ## install that package into a root of its own, upgrade, remove and purge it
	@config/deb/test target/deb/blueflood-forward_*.deb

vm-test: deb ## that package under a live systemd, in a virtual machine that qemu emulates: five minutes
	@config/deb/vm-test target/deb/blueflood-forward_*.deb

torture: ## kill the daemon TORTURE_ROUNDS times, take its file and its disk away, lie to it for LIES_SECONDS, and count what arrives: twelve minutes
	TORTURE_ROUNDS=$(TORTURE_ROUNDS) LIES_SECONDS=$(LIES_SECONDS) $(CARGO) test --release --test e2e -- --nocapture crash:: harm:: disk:: confirm::

# A part of them is in `make test`, with small loads.
scenarios: ## flows that must end well, in bad weather: ten minutes; ONLY="brown stop" some, ONLY=list names, SEED=n again
	@SCENARIOS=all ONLY="$(ONLY)" JOBS=$(JOBS) $(CARGO) test --release --test scenarios

# They need a browser. README and config/pictures show them.
pictures: ## the pictures of the page in config/pictures, made anew by a real flow: six minutes
	@mkdir -p config/pictures
	$(CARGO) test --features faults --test e2e -- --ignored --exact page::pictures

# What it finds goes to .cache/fuzz; only seeds that a test can name are committed.
fuzz: ## fuzz the decoders and the answers, FUZZ_SECONDS each
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	@cd tests/fuzz && for target in $$($(CARGO) fuzz list --fuzz-dir .); do \
		mkdir -p ../../.cache/fuzz/$$target && $(CARGO) fuzz run --fuzz-dir . --sanitizer none $$target \
			../../.cache/fuzz/$$target corpus/$$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

bench: ## what it costs, against its peers, in seven minutes; LONG=1 adds ten at 500,000/s; RESULTS=1 keeps the tables
	@RESULTS=$(RESULTS) LONG=$(LONG) $(CARGO) bench --bench bench

bench-micro: ## what each stage costs by itself (criterion)
	@$(CARGO) bench --bench micro

bench-instructions: ## instructions a datapoint of decoding, encoding and sealing (valgrind)
	@$(CARGO) bench --bench instructions

# What some tests look through: a browser, shells and lintian (Debian's, which needs root to install) and promtool (taken
# out of its package, so that no service is started). A test that does not find its tool says that it is skipped.
.PHONY: tools
tools:
	@for tool in chromium zsh fish lintian; do command -v $$tool >/dev/null || { [ "$$(id -u)" = 0 ] && \
		command -v apt-get >/dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$tool >/dev/null; } || \
		$(call skip,no $$tool here and it cannot be installed) || exit 1; done
	@command -v promtool >/dev/null || [ -x .cache/prometheus/usr/bin/promtool ] || { command -v dpkg-deb >/dev/null && \
		mkdir -p .cache/prometheus && cd .cache/prometheus && { apt-get download -qq prometheus 2>/dev/null || \
		{ [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get download -qq prometheus; }; } && \
		dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb; } || \
		$(call skip,no promtool here and its package cannot be had)

.PHONY: components
components:
	@$(CARGO) fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@$(CARGO) clippy --version >/dev/null 2>&1 || rustup component add clippy

clean: ## remove what was built
	$(CARGO) clean
	rm -rf .cache
