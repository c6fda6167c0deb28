# Everything one can do here; `make help` lists it. Needs python3.11 or 3.12 with venv, git and make: the rest is installed.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
ENVIRONMENT := $(VENV)/.stamp
PROTOS := gen/.stamp

# What is checked; places that do not exist are left out.
SOURCES := $(wildcard services clients/python tests tools examples benchmarks deploy)
TEXTS := $(wildcard $(SOURCES) docs protos .github *.md Makefile pyproject.toml)
# What crosses the socket between a worker host and a crew process: generated like the rest, but no part of the product's face.
LINK := services/orchestrator/worker/link
PROTO_FILES := $(shell find protos -mindepth 1 -type d -o -name '*.proto') $(LINK)/link.proto
LOCKS := auth models memory memory-chroma orchestrator tools worker client codegen docs dev

# Version 2 of the package whose version 1 CrewAI needs: for servers in tests, in an environment that the tests make.
MCP_SERVERS := tests/support/mcp_servers

DB ?= sqlite
INPUT ?=
MODEL ?=
JOBS ?= 3
T ?=
BUILDER ?= docker
IMAGE_PREFIX ?=
IMAGE_TAG ?= latest
BASE_IMAGE ?=
BUILD_OPTIONS ?=
OVERLAYS ?= deploy/k8s/overlays/dev deploy/k8s/overlays/prod
# Rewritten tests are kept, or each process of pytest would rewrite all of them.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest
PARALLEL := -n $(JOBS) --dist loadfile

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-zA-Z0-9_-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Run it

.PHONY: demo
demo: protos ## Run one crew on the embedded defaults and show it (INPUT=file.txt MODEL=ollama/llama3.2 for your own)
	@$(if $(MODEL),COXSWAIN_DEMO_MODEL="$(MODEL)" )$(PY) examples/brief/demo.py $(if $(INPUT),"$(INPUT)")

.PHONY: run
run: protos ## Serve all services on one port with two worker hosts (DB=postgres for PostgreSQL)
	@exec $(PY) -m services.suite --db $(DB)

.PHONY: dev
dev: protos ## Serve, and start again when a source or a proto changes
	@exec $(BIN)/watchfiles --sigint-timeout 30 "sh -c '$(MAKE) --no-print-directory protos && exec $(PY) -m services.suite --db $(DB)'" services protos

.PHONY: seed
seed: protos ## Write the starting data (the list of models); repeating it changes nothing
	@$(PY) -m services.common.db.migrate seed

.PHONY: backup
backup: protos ## Copy all that the suite keeps into a new directory, also while it runs (TO=directory DB=postgres)
	@test -n "$(TO)" || { echo 'usage: make backup TO=directory' >&2; exit 2; }
	@$(PY) -m services.suite.backup backup "$(TO)" --db $(DB)

.PHONY: restore
restore: protos ## Make an installation of a backup in an empty COXSWAIN_DATA_DIR (FROM=directory DB=postgres)
	@test -n "$(FROM)" || { echo 'usage: make restore FROM=directory' >&2; exit 2; }
	@$(PY) -m services.suite.backup restore "$(FROM)" --db $(DB)

.PHONY: doctor
doctor: protos ## Look at the databases that the settings name (coxswain doctor looks at the rest, from where a caller is)
	@$(PY) -m services.common.db.doctor

##@ Check it

.PHONY: check
check: protos ## The fast checks alone, for every change: lint, types, import contracts, protos, unit tests
	@passed=; failed=; for check in lint types contracts proto-lint test-unit; do \
		echo "== make $$check"; \
		if $(MAKE) --no-print-directory $$check; then passed="$$passed $$check"; else failed="$$failed $$check"; fi; done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi; \
	echo "passed:$$passed"

.PHONY: test
test: protos mcp-servers typescript-modules ## Everything: lint, types, import contracts, protos, every test (T=path: only those tests)
ifneq ($(T),)
	@$(PYTEST) $(T)
else
	@$(PYTEST) --collect-only -q tests >/dev/null 2>&1 & rewriting=$$!; \
	failed=; for check in lint types contracts proto-lint; do \
		echo "== make $$check"; $(MAKE) --no-print-directory $$check || failed="$$failed $$check"; done; \
	wait $$rewriting; \
	echo "== pytest"; $(PYTEST) $(PARALLEL) tests || failed="$$failed pytest"; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi
endif

# Before the tests, whose time is limited: what it installs may have to be fetched first.
.PHONY: mcp-servers
mcp-servers: $(ENVIRONMENT)
	@$(PY) -m tests.support.mcp_servers.processes

# Likewise; where node, npm or a registry is missing it says that the tests of this client are left out.
.PHONY: typescript-modules
typescript-modules: $(ENVIRONMENT)
	@$(PY) -m tools.typescript_client --modules-only --if-installed build/typescript

.PHONY: test-unit
test-unit: protos ## Tests without a database or a server
	@$(PYTEST) $(PARALLEL) tests/unit

.PHONY: test-integration
test-integration: protos mcp-servers ## Tests against real databases and stores
	@$(PYTEST) $(PARALLEL) tests/integration $(wildcard tests/contract)

.PHONY: test-e2e
test-e2e: protos typescript-modules ## Tests through the API of running services
	@$(PYTEST) tests/e2e

.PHONY: test-large
test-large: protos ## Tests too big for every change (sizes, long runs)
	@$(PYTEST) -m large --timeout 3600 tests

.PHONY: previous-release
previous-release: $(ENVIRONMENT) ## Write the code of the release before this one to build/, for tests in trees without a git history
	@$(PY) -m tests.support.previous_release

.PHONY: chaos
chaos: protos ## Kill processes under load and check that nothing is lost or doubled
	@$(PYTEST) -m chaos --timeout 3600 tests

.PHONY: soak
soak: protos ## Load all services while processes are killed, stopped, frozen and replaced (MINUTES=10 CALLERS=1 SEED=7 ONLY="roll kill")
	@PYTHONPATH=.:gen:clients/python $(PY) -m tests.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(CALLERS),--callers $(CALLERS)) \
		$(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

.PHONY: fuzz
fuzz: protos ## Call every RPC with odd requests, on both databases, and speak odd HTTP/2 (CALLS=100000 SEED=7 DB=sqlite METHODS=Crew REPEAT=file)
	@PYTHONPATH=.:gen:clients/python $(PY) -m tests.fuzz $(if $(CALLS),--calls $(CALLS)) $(if $(SEED),--seed $(SEED)) \
		$(if $(filter command line,$(origin DB)),--db $(DB)) $(if $(METHODS),--methods $(METHODS)) $(if $(REPEAT),--repeat $(REPEAT))

# Apart from `test`: it takes half as long again, and on Python 3.11 a process that is traced can hang for good when a thread
# that used greenlets has ended.
.PHONY: coverage
coverage: protos mcp-servers typescript-modules ## Every test, and where the code is not covered (htmlcov/index.html); at least 80 %
	@mkdir -p build/coverage
	@COVERAGE_FILE=$(CURDIR)/build/coverage/data $(PYTEST) $(PARALLEL) --cov --cov-fail-under=80 --cov-report=term-missing:skip-covered --cov-report=html tests

.PHONY: bench
bench: protos ## Measure against the floors and peers named in benchmarks/
	@$(PY) -m benchmarks

.PHONY: format
format: protos ## Format Python and protos, and mend what ruff can
	@$(BIN)/ruff check --fix-only --quiet $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/buf format -w protos
	@$(BIN)/buf format -w $(LINK)/link.proto

.PHONY: lint
lint: $(ENVIRONMENT) ## Style and likely mistakes in Python, and misspelled words everywhere but in tests
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/ruff check $(SOURCES)
	@$(PY) tools/generate_blocking_client.py --check
	@$(BIN)/typos --force-exclude --hidden $(TEXTS)

.PHONY: types
types: protos ## Types, strictly
	@$(BIN)/mypy $(SOURCES)

.PHONY: contracts
contracts: protos ## Which module may import which
	@$(BIN)/lint-imports --no-logo

.PHONY: proto-lint
proto-lint: protos ## Style, comments and format of the protos, docs/errors.md; breaking changes against protos/baseline.binpb.gz
	@$(BIN)/buf format --diff --exit-code protos
	@$(BIN)/buf format --diff --exit-code $(LINK)/link.proto
	@$(BIN)/buf lint gen/image.binpb
	@$(BIN)/buf breaking gen/image.binpb --against protos/baseline.binpb.gz
	@$(PY) -m tools.reference --check

##@ Call it from elsewhere

# What a client is generated with needs a small part of the environment, and none of CrewAI.
CODEGEN := build/codegen

$(CODEGEN)/.stamp: requirements/codegen.txt requirements/bootstrap.txt tools/bootstrap.sh
	@tools/bootstrap.sh $(PYTHON) $(CODEGEN) requirements/codegen.txt
	@touch $@

.PHONY: sdk
sdk: $(CODEGEN)/.stamp ## Write build/coxswain-sdk-VERSION.zip: all protos with what they import, for clients in any language
	@$(CODEGEN)/bin/python -m tools.sdk build

.PHONY: client
client: $(CODEGEN)/.stamp ## Write build/coxswain_client-VERSION.whl: the Python client with its generated code and the command line
	@SOURCE_DATE_EPOCH=315532800 $(CODEGEN)/bin/uv build --offline --wheel --no-build-isolation \
		--python $(CODEGEN)/bin/python --out-dir build --quiet clients/python
	@ls build/coxswain_client-*.whl

.PHONY: typescript-client
typescript-client: $(CODEGEN)/.stamp ## Build and lint the TypeScript client and write its package to build/ (needs node and npm)
	@$(CODEGEN)/bin/python -m tools.typescript_client build/typescript

##@ Read it

# Its own environment: what builds the site is no part of the product.
SITE := build/docs-env

$(SITE)/.stamp: requirements/docs.txt requirements/bootstrap.txt tools/bootstrap.sh
	@tools/bootstrap.sh $(PYTHON) $(SITE) requirements/docs.txt
	@touch $@

.PHONY: docs
docs: protos $(SITE)/.stamp ## Build the documentation as a site, API reference included, in build/site; broken links are errors
	@$(PY) -m tools.docs_site build
	@NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --quiet --strict --config-file build/mkdocs.yml
	@echo "build/site/index.html"

##@ Deploy it

.PHONY: images
images: ## Build the image of every service (BUILDER=podman IMAGE_PREFIX=registry.example.com/ IMAGE_TAG=0.1.0)
	@set -e; for service in auth models memory orchestrator worker tools; do \
		$(BUILDER) build --file deploy/docker/Dockerfile --build-arg SERVICE=$$service \
			$(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) --tag $(IMAGE_PREFIX)coxswain-$$service:$(IMAGE_TAG) $(BUILD_OPTIONS) .; done

# Not the locks of development: an SBOM says what an image installs.
IMAGES := auth models memory orchestrator tools worker
SUPPLY_CHAIN := build/supply-chain

.PHONY: sbom
sbom: $(SUPPLY_CHAIN)/.stamp ## Write an SBOM (CycloneDX) of each image's Python packages to build/sbom
	@$(SUPPLY_CHAIN)/bin/python tools/supply_chain/sbom.py build/sbom $(IMAGES)

.PHONY: advisories
advisories: $(SUPPLY_CHAIN)/.stamp ## Look the locked packages up in an advisory database; needs a network (exit code 3: nothing is known)
	@$(SUPPLY_CHAIN)/bin/python tools/supply_chain/advisories.py $(IMAGES) memory-chroma client

$(SUPPLY_CHAIN)/.stamp: tools/supply_chain/requirements.txt requirements/bootstrap.txt tools/bootstrap.sh
	@tools/bootstrap.sh $(PYTHON) $(SUPPLY_CHAIN) tools/supply_chain/requirements.txt
	@touch $@

.PHONY: manifests
manifests: $(ENVIRONMENT) ## Render the Kubernetes manifests to build/ and check them (OVERLAYS=directories); needs kubectl
	@mkdir -p build
	@set -e; for overlay in $(OVERLAYS); do \
		rendered=build/manifests-$$(basename $$overlay).yaml; \
		kubectl kustomize $$overlay >$$rendered; \
		$(BIN)/kubernetes-validate --strict --quiet $$rendered; \
		echo "$$overlay is valid: $$rendered"; \
	done

##@ Change it

.PHONY: protos
protos: $(PROTOS) ## Generate Python and the descriptor image from protos/ into gen/

.PHONY: proto-baseline
proto-baseline: protos ## Write protos/baseline.binpb.gz, which proto-lint compares with: for a release
	@$(BIN)/buf build gen/image.binpb --exclude-source-info -o protos/baseline.binpb.gz

.PHONY: blocking-client
blocking-client: $(ENVIRONMENT) ## Generate the blocking client from the one for asyncio
	@$(PY) tools/generate_blocking_client.py

.PHONY: price-list
price-list: $(ENVIRONMENT) ## Write the list of prices and capabilities of models from the one that the locked litellm carries
	@$(PY) tools/refresh_price_list.py services/models/price_list.csv

.PHONY: providers
providers: protos ## Try every provider's features and write what works to docs/providers.md
	@WRITE_PROVIDERS_PAGE=1 $(PYTEST) -q tests/integration/models/test_providers_conformance.py

.PHONY: settings-tables
settings-tables: protos ## Write every setting with its default into docs/settings.md, those of models into docs/models.md
	@$(PY) -m tools.write_settings_tables

.PHONY: reference
reference: protos ## Write docs/errors.md from the protos, and the reference of the API to build/api
	@$(PY) -m tools.reference
	@$(PY) -m tools.reference build/api

.PHONY: trace-picture
trace-picture: protos ## Draw the trace of an execution that is run for it, into docs/trace.svg
	@$(PY) -m tools.draw_trace

.PHONY: migrate
migrate: protos ## Bring every service's database to the newest schema
	@$(PY) -m services.common.db.migrate upgrade

.PHONY: migration
migration: protos ## Write a migration from the difference to the tables (service=memory m="add scores")
	@test -n "$(service)" -a -n "$(m)" || { echo 'usage: make migration service=memory m="add scores"' >&2; exit 2; }
	@$(PY) -m services.common.db.migrate revision "$(service)" --message "$(m)"

.PHONY: lock
lock: $(ENVIRONMENT) ## Resolve pyproject.toml anew into requirements/ (UPGRADE=1: newest allowed versions)
	@$(LOCK) $(if $(UPGRADE),--upgrade) --all-extras pyproject.toml -o requirements/all.txt
	@$(LOCK) -c requirements/all.txt --extra bootstrap pyproject.toml -o requirements/bootstrap.txt
	@set -e; for extra in $(LOCKS); do $(LOCK) -c requirements/all.txt --extra $$extra pyproject.toml -o requirements/$$extra.txt; done
	@$(LOCK) $(if $(UPGRADE),--upgrade) $(MCP_SERVERS)/modern.in -o $(MCP_SERVERS)/modern.txt
	@$(LOCK) $(if $(UPGRADE),--upgrade) tests/support/a2a_03/client.in -o tests/support/a2a_03/client.txt
	@$(LOCK) $(if $(UPGRADE),--upgrade) tests/support/crewai_a2a/client.in -o tests/support/crewai_a2a/client.txt
	@$(LOCK) $(if $(UPGRADE),--upgrade) tools/supply_chain/requirements.in -o tools/supply_chain/requirements.txt

# Hashes pin the content; where it is fetched from is each machine's own affair.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--no-annotate --custom-compile-command "make lock"

.PHONY: clean
clean: ## Remove everything that was generated (the data directory stays)
	rm -rf $(VENV) gen htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is as its lock says: a changed lock is installed before anything else runs.
$(ENVIRONMENT): requirements/bootstrap.txt requirements/dev.txt tools/bootstrap.sh
	@tools/bootstrap.sh $(PYTHON) $(VENV) requirements/dev.txt
	@touch $@

$(PROTOS): $(PROTO_FILES) tools/generate_protos.py $(ENVIRONMENT)
	@$(PY) tools/generate_protos.py --own coxswain/orchestrator/worker=$(LINK) protos gen
	@touch $@
