# make demo     set everything up, build, show the device at work
# make test     every check and test
# make test-releases  the provider under rdma-core of other Debian releases
# make bench    ratios against peers measured in the same run; PLOT=docs/img writes the pictures of the README
# make lint     formatting, clippy, documentation
# make install  PREFIX=/usr/local, DESTDIR= for packages
# make clean

CARGO   ?= cargo
PREFIX  ?= /usr/local
DESTDIR ?=
TARGET  := $(or $(CARGO_TARGET_DIR),target)

# What Debian calls the things that we need; each list is installed only where something of it is missing.
RUN_PACKAGES   := libibverbs1 ibverbs-utils ibverbs-providers perftest
BUILD_PACKAGES := gcc libc6-dev
TEST_PACKAGES  := $(RUN_PACKAGES) $(BUILD_PACKAGES) binutils valgrind libibverbs-dev python3-pyverbs rdma-core iproute2 ucx-utils openmpi-bin libopenmpi-dev \
    mpich libmpich-dev qperf libfabric-bin
BENCH_PACKAGES := $(RUN_PACKAGES) $(BUILD_PACKAGES) libibverbs-dev ucx-utils openmpi-bin libopenmpi-dev

.PHONY: all build demo test test-releases bench lint install clean

all: build

build:
	$(CARGO) build --release

# $(call packages,LIST): on systems with dpkg, install what is missing of LIST.
define packages
	@command -v dpkg-query >/dev/null || { echo "Not a Debian system: make sure that these are there: $(1)"; exit 0; }; \
	missing=; for p in $(1); do \
	    case "$$(dpkg-query -W -f '$${Status}' $$p 2>/dev/null)" in *"ok installed") ;; *) missing="$$missing $$p" ;; esac; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ]; then sudo=; elif command -v sudo >/dev/null; then sudo=sudo; else \
	    echo "These packages are missing, and without root or sudo they cannot be installed from here. As root:" >&2; \
	    echo "    apt-get update && apt-get install -y --no-install-recommends$$missing" >&2; exit 1; \
	fi; \
	echo "Installing$$missing"; \
	$$sudo apt-get update -qq && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null
endef

demo:
	$(call packages,$(RUN_PACKAGES) $(BUILD_PACKAGES))
	$(CARGO) build --release
	@tests/demo.sh $(TARGET)/release/gaudi-soft

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --quiet
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check bans licenses sources; fi

# The libraries are built first because the tests load them and cargo does not know.
test:
	$(call packages,$(TEST_PACKAGES))
	$(MAKE) --no-print-directory lint
	$(CARGO) build --release
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    $(CARGO) nextest run --release --workspace && $(CARGO) test --release --workspace --doc --quiet; \
	else \
	    $(CARGO) test --release --workspace -- --test-threads=1; \
	fi

# Other releases of rdma-core, in folders: nothing of them is installed.
RELEASES ?= trixie sid
test-releases:
	$(call packages,$(TEST_PACKAGES))
	$(CARGO) build --release
	@tests/releases.sh $(abspath $(TARGET))/releases $(RELEASES)
	GAUDI_RELEASES=$$(for r in $(RELEASES); do printf '%s:' "$(abspath $(TARGET))/releases/$$r"; done) \
	    $(CARGO) test --release -p gaudi-tests --test releases -- --test-threads=1 --nocapture

bench:
	$(call packages,$(BENCH_PACKAGES))
	$(CARGO) build --release
	$(TARGET)/release/setup
	$(TARGET)/release/gaudi-bench
	$(TARGET)/release/transports $(if $(PLOT),--plot $(PLOT))

# gaudi-soft finds the libraries in ../lib/gaudi-verbs.
install: build
	install -D -m 755 $(TARGET)/release/gaudi-soft $(DESTDIR)$(PREFIX)/bin/gaudi-soft
	install -D -m 644 $(TARGET)/release/libgaudi_softdev.so $(DESTDIR)$(PREFIX)/lib/gaudi-verbs/libgaudi_softdev.so
	install -D -m 644 $(TARGET)/release/libgaudi.so $(DESTDIR)$(PREFIX)/lib/gaudi-verbs/libgaudi.so
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/gaudi-verbs README.md LICENSE-* docs/*.md
	install -D -m 644 man/gaudi-soft.1 $(DESTDIR)$(PREFIX)/share/man/man1/gaudi-soft.1

clean:
	$(CARGO) clean
