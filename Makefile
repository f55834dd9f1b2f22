# `make help` lists the targets.
SHELL = /bin/bash
.SHELLFLAGS = -euo pipefail -c
.DEFAULT_GOAL = help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: all help demo dev dev-stop docs test test-core test-sql test-e2e matrix fuzz fuzz-smoke fuzz-sql sqlsmith build stage \
	copy install uninstall installcheck lint bench package clean prerequisites-build prerequisites-test \
	prerequisites-fuzz prerequisites-bench prerequisites-lint prerequisites-package

PG_CONFIG ?= pg_config
DESTDIR ?=

# These are recursive on purpose: on a bare machine pg_config appears only after `prerequisites`.
PG_MAJOR = $(shell $(PG_CONFIG) --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# `release`, or `dev` for the inner loop: built in seconds rather than minutes, and slower at run time.
PROFILE = release
TARGET = $(or $(CARGO_TARGET_DIR),target)
STAGE = target/stage/$(PROFILE)-pg$(PG_MAJOR)
SCRIPTS = .ci/run tests/bench/base tests/cluster tests/demo tests/dev tests/fuzz/cargo tests/fuzz/run \
	tests/fuzz/sqlsmith tests/matrix tests/prerequisites tests/regress

export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
export PG_CONFIG
# With this, pgrx does not look for a configuration in the user's home.
export PGRX_PG_CONFIG_PATH = $(shell command -v $(PG_CONFIG))

help: ## List the targets
	@sed -n 's/^\([a-z][a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | \
		while IFS=$$'\t' read -r target text; do printf '  make %-14s %s\n' "$$target" "$$text"; done
	@echo
	@echo '  PG_CONFIG chooses the PostgreSQL (15 to 18): make PG_CONFIG=/path/to/pg_config install'

# What PGXN's client calls before `install`.
all: build

demo: install ## Install what is missing, build, and show a key's life on a throwaway server
	@tests/demo

dev: prerequisites-build ## The inner loop: a fast build, then the SQL tests TEST='keys e2e/gate' (all) on a kept server
	@$(MAKE) --no-print-directory PROFILE=dev stage copy
	@tests/dev run $(TEST)

dev-stop: ## Stop and remove the server of `make dev`
	@tests/dev stop

test: prerequisites-test test-core fuzz-smoke test-sql test-e2e ## Install what is missing, build, and run all tests

test-sql: install
	tests/cluster run api_key.flush_interval=1h -- tests/regress

matrix: ## Run `make test` (GOAL) on PostgreSQL 15, 17 and 18, in chroots of Debian's SUITES
	GOAL=$(GOAL) tests/matrix $(SUITES)

# The second run has loom try every interleaving of those who work on memory without locks.
test-core: prerequisites-build
	cargo test --no-default-features --lib
	RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=target/loom \
		cargo test --release --no-default-features --lib -- memo vacant

docs: install ## Write the generated pages of docs/reference
	cd tests/e2e && npm ci --no-progress && DOCS_UPDATE=1 node --test --test-reporter=spec reference.test.mjs

test-e2e:
	cd tests/e2e && npm ci --no-progress && npm test

fuzz: prerequisites-build ## Fuzz the parsers: RUNS inputs each (10000000), SEED to repeat
	RUNS=$(or $(RUNS),10000000) SEED=$(SEED) tests/fuzz/run $(TARGETS)

fuzz-smoke: prerequisites-build
	RUNS=20000 SEED=$(SEED) tests/fuzz/run

fuzz-sql: prerequisites-test install ## Call all functions as nobody means it: RUNS statements a session (5000), SEED
	cd tests/e2e && npm ci --no-progress && \
		FUZZ_RUNS=$(or $(RUNS),5000) FUZZ_SEED=$(SEED) node --test --test-reporter=spec fuzz_sql.test.mjs

sqlsmith: prerequisites-fuzz install ## Send statements that sqlsmith makes up: RUNS (20000) as each of two roles, SEED
	tests/fuzz/sqlsmith $(or $(RUNS),20000) $(SEED)

build: prerequisites-build stage ## Build the extension for the PostgreSQL of PG_CONFIG

# The tree as it is installed. The script of CREATE EXTENSION is sql/*.sql in the order of their names.
stage:
	cargo build --locked --lib --profile $(PROFILE) --target-dir $(TARGET) --no-default-features --features pg$(PG_MAJOR)
	@rm -rf $(STAGE); \
	extension=$(STAGE)$$($(PG_CONFIG) --sharedir)/extension; \
	install -D -m 755 $(TARGET)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/libapi_key.so \
		"$(STAGE)$$($(PG_CONFIG) --pkglibdir)/api_key.so"; \
	install -D -m 644 -t "$$extension" api_key.control; \
	export LC_ALL=C; cat sql/*.sql >"$$extension/api_key--$(VERSION).sql"

install: build copy ## Build and install, below DESTDIR if it is set

# Only the copying needs rights, so only the copying asks for them. install(1) replaces files
# rather than writing into them, which would crash servers that have the library mapped. Files that
# are there already are left, so that `make dev` can tell by the library whether to restart its server.
copy:
	@cd $(STAGE); \
	if [ -n '$(DESTDIR)' ] || [ -w "$$($(PG_CONFIG) --pkglibdir)" ]; then root=; else root=sudo; fi; \
	find . -type f -printf '%P\n' | sort | while read -r file; do \
		! cmp -s "$$file" "$(DESTDIR)/$$file" || continue; \
		mode=644; [[ $$file != *.so ]] || mode=755; \
		echo "Installing $(DESTDIR)/$$file"; \
		$$root install -D -m $$mode "$$file" "$(DESTDIR)/$$file"; \
	done

uninstall: ## Remove what `make install` has copied, below DESTDIR if it is set
	@if [ -n '$(DESTDIR)' ] || [ -w "$$($(PG_CONFIG) --pkglibdir)" ]; then root=; else root=sudo; fi; \
	$$root rm -fv "$(DESTDIR)$$($(PG_CONFIG) --pkglibdir)/api_key.so" \
		"$(DESTDIR)$$($(PG_CONFIG) --sharedir)/extension/"api_key.control \
		"$(DESTDIR)$$($(PG_CONFIG) --sharedir)/extension/"api_key--*.sql

installcheck: ## Run the SQL tests and races against a running server (PGHOST, PGPORT, PGUSER)
	tests/regress

# Files of src/pg that may run queries. foreign, resources and references do so as the owner of a table, see
# src/pg/foreign.rs; keys/functions and flush/worker call functions of ours, which name tables of ours only.
MAY_QUERY = flush/worker foreign keys/functions raw/spi references resources

lint: prerequisites-lint ## Check formatting, clippy, crates, who runs queries, and the shell scripts
	cargo fmt --check
	cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
	cargo clippy --no-default-features --all-targets -- -D warnings
	cargo clippy --no-default-features --features pg$(PG_MAJOR) --all-targets -- -D warnings
	tests/fuzz/cargo clippy -- -D warnings
	@if grep -rnE '\<(spi::|Spi\>|SPI_(prepare|execute|cursor_open))' src/pg \
		| grep -vE "^src/pg/($$(tr ' ' '|' <<< '$(MAY_QUERY)'))\.rs:"; then \
		echo 'these run queries: if none touches a table of an application, add them to MAY_QUERY' >&2; \
		exit 1; fi
	.tools/bin/cargo-deny --locked --log-level error check licenses bans sources
	cargo test --no-default-features --test architecture
	shellcheck $(SCRIPTS)
	@if [ "$$(grep -c '"version": "$(VERSION)"' META.json)" -ne 2 ]; then \
		echo 'META.json and Cargo.toml disagree about the version' >&2; exit 1; fi

bench: prerequisites-bench install ## Compare verifying with its alternatives, or with the build of the commit BASE
	cd tests/e2e && npm ci --no-progress
ifdef BASE
	node tests/bench/two_builds.mjs --base "$$(tests/bench/base $(BASE))"
else
	node tests/bench/bench.mjs
endif

# The archive of files has no entries for directories: unpacked at /, it changes the mode of none.
# It is stripped, and its name says which glibc it needs at least.
package: prerequisites-package build ## Make dist/: a tar.gz of the installed tree, and (in a git checkout) the source as a PGXN zip
	rm -rf $(STAGE).package
	mkdir -p dist
	@set -e; stage=$(STAGE).package; doc=$$stage/usr/share/doc/api_key; \
	(cd $(STAGE) && find . -type f -printf '%P\n') | while read -r file; do \
		case $$file in \
		*.so) install -D --strip -m 755 "$(STAGE)/$$file" "$$stage/$$file" ;; \
		*) install -D -m 644 "$(STAGE)/$$file" "$$stage/$$file" ;; \
		esac; \
	done; \
	find LICENSE README.md CHANGELOG.md SECURITY.md $(wildcard docs) -type f | while read -r file; do \
		install -D -m 644 "$$file" "$$doc/$$file"; \
	done; \
	glibc=$$(find "$$stage" -name '*.so' -exec objdump -T {} + | \
		sed -n 's/.*GLIBC_\([0-9.]*\)[^0-9.].*/\1/p' | sort -V | tail -n 1); \
	(cd "$$stage" && find . -type f -printf '%P\n' | sort) | \
		tar --create --gzip --owner=0 --group=0 --directory="$$stage" --files-from=- \
		--file="dist/api_key-$(VERSION)-pg$(PG_MAJOR)-glibc$$glibc-$$(uname -m).tar.gz"; \
	if git rev-parse --verify HEAD >/dev/null 2>&1; then \
		git archive --format=zip --prefix=api_key-$(VERSION)/ \
			--output=dist/api_key-$(VERSION).zip HEAD; \
	else echo 'package: no git checkout, so no source archive'; fi
	@ls -l dist

clean: dev-stop ## Remove what was built, but not .tools
	rm -rf target dist tests/e2e/node_modules examples/express-proxy/node_modules

prerequisites-build:
	@tests/prerequisites build

prerequisites-test:
	@tests/prerequisites build test

prerequisites-fuzz:
	@tests/prerequisites build fuzz

prerequisites-bench:
	@tests/prerequisites build test bench

prerequisites-lint:
	@tests/prerequisites build lint

prerequisites-package:
	@tests/prerequisites build package
