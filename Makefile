# Every target does all of its own set-up: a fresh Debian machine needs only python3 (>= 3.11, with
# venv) and make. Requirements are pinned and hashed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check test-auditors test-real test-crash test-reload test-leaks test-soak test-kernel deb test-systemd test-deb deb test-systemd test-deb test-fuse install-fuse bench bench-snp bench-tdx bench-daemon bench-policy bench-detectors bench-sse bench-peers fuzz fuzz-keep proto requirements clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; $(PYTHON) is older (set PYTHON=...)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

define install
	@echo "Installing pinned requirements into $(VENV) ..."
	$(BIN)/pip install -qq --disable-pip-version-check --require-hashes $(1)
	$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
endef

$(VENV)/.runtime: requirements/runtime.txt pyproject.toml | $(VENV)/bin/pip
	$(call install,-r requirements/build.txt -r requirements/runtime.txt)

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(VENV)/bin/pip
	$(call install,-r requirements/dev.txt)
	touch $(VENV)/.runtime

install: $(VENV)/.runtime ## Make .venv with the `lucid-agent`, `lucid` and `lucid-observer` commands

demo: $(VENV)/.runtime ## The whole way on this machine, simulated TEE (DEMO_ARGS=--once to end by itself)
	$(BIN)/lucid demo $(DEMO_ARGS)

test: $(VENV)/.dev ## The default test suite (about 5 minutes)
	$(BIN)/python -m pytest

check: $(VENV)/.dev ## ruff, mypy --strict, the import arrows, the unit files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -rs tests/test_arrows.py tests/test_units.py

test-crash: $(VENV)/.dev ## kill -9 and outages under load (about 3 minutes)
	$(BIN)/python -m pytest -m crash tests/crash

test-soak: $(VENV)/.dev ## Two thousand renewals with injected failures, in real time (about 2 minutes)
	$(BIN)/python -m pytest -m soak -s tests/soak

test-leaks: $(VENV)/.dev ## Hunt for secrets that leave: 40,000 exchanges (LEAK_SEED, LEAK_ROUNDS; 6 minutes)
	$(BIN)/python -m pytest -m leaks tests/leaks tests/enforcement

test-reload: $(VENV)/.dev ## A new policy bundle every 200 ms under 1,000 requests/s, one in three broken (half a minute)
	$(BIN)/python -m pytest -m reload tests/reload

deb: $(VENV)/.dev ## The Debian package, in build/deb (needs debhelper)
	$(BIN)/python -m deb.build build/deb

# A small Debian is made below .systemd, once, from the configured mirror; needs root.
test-systemd: $(VENV)/.dev ## The real unit files under a real systemd, by systemd-nspawn (3 minutes)
	$(BIN)/python -m pytest -o faulthandler_timeout=900 -m systemd -rs tests/systemd

test-systemd-vm: $(VENV)/.dev ## The same units on a kernel of their own, with the real configfs-tsm, in QEMU (3 minutes)
	$(BIN)/python -m pytest -o faulthandler_timeout=900 -m vm -rs tests/systemd

test-deb: $(VENV)/.dev ## The Debian package: lintian, install, upgrade, purge (3 minutes)
	$(BIN)/python -m pytest -o faulthandler_timeout=900 -m deb -rs tests/systemd

# Packages of the configured Debian mirror are unpacked below .kernel; nothing is installed.
test-kernel: $(VENV)/.dev ## The client against the real configfs-tsm code, in a virtual machine (2 minutes)
	$(BIN)/python -m pytest -m kernel -rs -o faulthandler_timeout=1200 tests/kernel

# pyfuse3 is compiled against libfuse3, so it stays out of .venv.
.venv-fuse/.done: requirements/fuse.txt requirements/fuse-build.txt requirements/dev.txt pyproject.toml | $(VENV)/bin/pip
	$(PYTHON) -m venv .venv-fuse
	@echo "Installing pinned requirements into .venv-fuse, and compiling pyfuse3 ..."
	.venv-fuse/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements/dev.txt -r requirements/fuse-build.txt
	.venv-fuse/bin/pip install -qq --disable-pip-version-check --require-hashes --no-build-isolation -r requirements/fuse.txt
	.venv-fuse/bin/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

install-fuse: .venv-fuse/.done ## Make .venv-fuse with `lucid-agent simulate-tee` (needs gcc, pkg-config, libfuse3-dev)

test-fuse: ## A simulated TEE's tree as a file system (half a minute); skipped without libfuse3's headers
	@if pkg-config --exists fuse3 2>/dev/null; then \
	  $(MAKE) --no-print-directory .venv-fuse/.done && .venv-fuse/bin/python -m pytest -m fuse -rs tests/fuse; \
	else echo "test-fuse: skipped: no headers of libfuse3 (apt-get install fuse3 libfuse3-dev pkg-config gcc)"; fi

# A real model server (llama-cpp-python) and a real client (openai) in an environment of their own,
# so that their dependencies stay out of ours. The wheel is built from source once (5 to 10 minutes)
# and then comes from pip's cache. LUCID_MODEL may name a GGUF file; default: the test vectors'.
.venv-real/.done: requirements/real.txt | $(VENV)/bin/pip
	$(PYTHON) -m venv .venv-real
	@echo "Installing a model server into .venv-real (the first time it is compiled: 5 to 10 minutes) ..."
	.venv-real/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements/pip.txt
	CMAKE_ARGS=-DLLAVA_BUILD=OFF .venv-real/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements/real.txt
	touch $@

test-real: $(VENV)/.dev .venv-real/.done ## A real model server and the openai client through the gateway (1 minute after the build)
	$(BIN)/python -m pytest -m real tests/real

# The example auditor for personal data wraps a library that is not ours (400 MB with its own).
.venv-auditors/.done: requirements/auditors.txt | $(VENV)/bin/pip
	$(PYTHON) -m venv .venv-auditors
	.venv-auditors/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements/auditors.txt
	touch $@

test-auditors: $(VENV)/.dev .venv-auditors/.done ## The example auditor that wraps Presidio, asked by the agent (1 minute)
	$(BIN)/python -m pytest -m auditors -rs tests/auditors

bench: $(VENV)/.dev bench-snp bench-tdx bench-policy bench-daemon bench-detectors ## All benchmarks but bench-peers: SNP, TDX, policy, daemon, detectors, streams, nginx beside the gateway (5 minutes; needs nginx and wrk)
	$(BIN)/python -m benchmarks.sse --write
	$(BIN)/python -m benchmarks --write

bench-detectors: $(VENV)/.dev ## What it costs to look through a text (15 seconds)
	$(BIN)/python -m benchmarks.detectors --write

bench-sse: $(VENV)/.dev ## 20,000 stream chunks a second in window mode (1 minute; needs nginx)
	$(BIN)/python -m benchmarks.sse --write

# LiteLLM's proxy with its content filter, in an environment of its own (850 MB).
.venv-litellm/.done: requirements/litellm.txt | $(VENV)/bin/pip
	$(PYTHON) -m venv .venv-litellm
	.venv-litellm/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements/litellm.txt
	touch $@

bench-peers: $(VENV)/.dev .venv-litellm/.done ## Leaks, first tokens and speed beside LiteLLM's content filter (3 minutes, first time 5; needs nginx and wrk)
	$(BIN)/python -m benchmarks.filters --write

.venv-peers/.done: requirements/peers.txt | $(VENV)/bin/pip
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements/peers.txt
	touch $@

.PHONY: bench-auditors
bench-auditors: $(VENV)/.dev ## What auditors cost a request (about 2 minutes; needs nginx and wrk)
	$(BIN)/python -m benchmarks.auditors --write

bench-snp: $(VENV)/.dev .venv-peers/.done ## Verifying SNP reports beside its floor and a peer (about 1 minute)
	$(BIN)/python -m benchmarks.snp --write

bench-daemon: $(VENV)/.dev ## Start to READY=1, idle memory and idle CPU of the daemon (2 minutes)
	$(BIN)/python -m benchmarks.daemon --write

bench-commands: $(VENV)/.dev ## How long `lucid --help` and a probe take (20 s)
	$(BIN)/python -m benchmarks.commands --write

bench-tdx: $(VENV)/.dev ## Verifying TDX quotes beside dcap-qvl (half a minute)
	$(BIN)/python -m benchmarks.tdx --write

# OPA's own Go engine as a library; its wheel says Python 3.14 and needs no more than ctypes.
.venv-policy/.done: requirements/policy-peers.txt requirements/policy-opa.txt | $(VENV)/bin/pip
	$(PYTHON) -m venv .venv-policy
	.venv-policy/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements/policy-peers.txt
	.venv-policy/bin/pip download -qq --disable-pip-version-check --require-hashes --no-deps --dest .venv-policy/wheel --python-version 3.14 --only-binary=:all: -r requirements/policy-opa.txt
	$(PYTHON) -m zipfile -e .venv-policy/wheel/opa_golib_python_bindings-*.whl .venv-policy/opa
	touch $@

bench-policy: $(VENV)/.dev .venv-policy/.done ## Decisions beside plain Cedar, Cedarling and OPA's Go engine (half a minute)
	$(BIN)/python -m benchmarks.policy --write

# Coverage-guided fuzzing, in an environment of its own. FUZZ_SECONDS, for each, may be set.
FUZZ_SECONDS ?= 90
LUCID_VECTORS ?= ../shared/vectors
.venv-fuzz/.done: requirements/runtime.txt requirements/fuzz.txt | $(VENV)/bin/pip
	$(PYTHON) -m venv .venv-fuzz
	.venv-fuzz/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	.venv-fuzz/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements/fuzz.txt
	touch $@

# What the run finds stays in .fuzz; `make fuzz-keep` takes over from there what covers something new.
# FUZZ_TARGETS: some of them; `python -m tests.fuzz.targets` lists them, evidence apart.
FUZZ := -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=1024
fuzz: .venv-fuzz/.done ## Fuzz what reads hostile bytes: evidence, statements, callers, bundles, HTTP, every route (FUZZ_SECONDS=90 for each)
	.venv-fuzz/bin/python -m tests.fuzz.corpus $(LUCID_VECTORS) .fuzz
	for kind in snp tdx; do \
	  .venv-fuzz/bin/python -m tests.fuzz.$$kind $(FUZZ) -max_len=32768 .fuzz/$$kind || exit 1; \
	done
	for target in $${FUZZ_TARGETS:-$$(.venv-fuzz/bin/python -m tests.fuzz.targets)}; do \
	  mkdir -p .fuzz/$$target; \
	  .venv-fuzz/bin/python -m tests.fuzz $$target $(FUZZ) -max_len=8192 -len_control=10 -artifact_prefix=.fuzz/$$target- .fuzz/$$target tests/fuzz/kept/$$target || exit 1; \
	done

fuzz-keep: .venv-fuzz/.done ## Minimise what `make fuzz` found into the corpus that `make test` replays
	for target in $${FUZZ_TARGETS:-$$(.venv-fuzz/bin/python -m tests.fuzz.targets)}; do \
	  .venv-fuzz/bin/python -m tests.fuzz.keep $$target .fuzz/$$target || exit 1; \
	done

# The base is made once, with mmdebstrap; BASE=image@sha256:… names another. Needs buildah.
.PHONY: image image-archive auditor-images test-image kustomize test-deploy
IMAGE ?= localhost/lucid-agent:dev
image: $(VENV)/.dev ## Build the container image, bit for bit reproducible (1 minute; as root)
	deploy/image/build.sh $(IMAGE)

image-archive: image ## dist/lucid-agent-image.tar: for docker load, podman load, kind load image-archive
	mkdir -p dist
	rm -f dist/lucid-agent-image.tar
	skopeo copy --quiet "containers-storage:[overlay@$(CURDIR)/.image/store+$(CURDIR)/.image/run]$(IMAGE)" \
	  docker-archive:dist/lucid-agent-image.tar:$(IMAGE)

# checkov, Helm, hadolint and Kubernetes' schemas, in an environment of their own.
.venv-deploy/.done: requirements/deploy.txt | $(VENV)/bin/pip
	$(PYTHON) -m venv .venv-deploy
	.venv-deploy/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements/deploy.txt
	touch $@

auditor-images: image ## Build the example auditors' images from their Dockerfiles (1 minute; as root)
	deploy/image/auditors.sh

test-image: image auditor-images .venv-deploy/.done ## Run the images read-only, without rights; build the agent's again and compare (4 minutes)
	.venv-deploy/bin/hadolint Dockerfile examples/auditors/*/Dockerfile
	$(BIN)/python -m pytest -m image -rs tests/image

kustomize: .venv-deploy/.done ## Render deploy/kustomize from the chart again
	.venv-deploy/bin/python deploy/kustomize/render.py

test-deploy: image .venv-deploy/.done ## Charts, kustomize, compose: valid for Kubernetes 1.33 and 1.37, checkov, run by podman (3 minutes)
	$(BIN)/python -m pytest -m deploy -rs tests/image

.PHONY: wheel test-wheel sbom audit bench-commands
.venv-supply/.done: requirements/supply.txt | $(VENV)/bin/pip
	$(PYTHON) -m venv .venv-supply
	.venv-supply/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements/supply.txt
	touch $@

wheel: $(VENV)/.dev ## Build dist/lucid_agent-*.whl, the same bytes each time
	rm -rf build/lib dist/lucid_agent-*.whl  # setuptools would pack what is left of an earlier state
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/pip wheel -qq --disable-pip-version-check --no-deps --no-build-isolation -w dist .

test-wheel: wheel .venv-supply/.done ## The wheel in an empty environment, by pip and by pipx: the demo holds (2 minutes)
	$(BIN)/python -m pytest -m wheel -rs tests/wheel

sbom: wheel .venv-supply/.done ## A bill of materials (CycloneDX) of what is shipped: dist/lucid-agent.cdx.json
	.venv-supply/bin/python deploy/sbom.py dist/lucid-agent.cdx.json

audit: .venv-supply/.done ## Known vulnerabilities in what is shipped (fails as well where it could not be checked)
	.venv-supply/bin/python deploy/audit.py requirements/runtime.txt

proto: $(VENV)/.dev ## Generate the stream's message code again
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. attestation/wire/observer.proto

requirements: ## Pin and hash again (needs uv on the PATH)
	uv pip compile -q pyproject.toml --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --upgrade -o requirements/runtime.txt
	uv pip compile -q pyproject.toml --group pyproject.toml:dev -c requirements/runtime.txt --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --upgrade -o requirements/dev.txt
	uv pip compile -q requirements/real.in --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --upgrade -o requirements/real.txt
	uv pip compile -q requirements/fuse-build.in -c requirements/dev.txt --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --upgrade -o requirements/fuse-build.txt
	uv pip compile -q requirements/fuse.in -c requirements/runtime.txt --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --upgrade -o requirements/fuse.txt
	uv pip compile -q requirements/auditors.in --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --upgrade -o requirements/auditors.txt
	uv pip compile -q requirements/peers.in --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --upgrade -o requirements/peers.txt
	uv pip compile -q requirements/policy-peers.in --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --upgrade -o requirements/policy-peers.txt
	uv pip compile -q requirements/fuzz.in --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --upgrade -o requirements/fuzz.txt
	uv pip compile -q requirements/litellm.in --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --upgrade -o requirements/litellm.txt
	for name in deploy supply; do \
	  uv pip compile -q requirements/$$name.in --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --upgrade -o requirements/$$name.txt; \
	done

clean: ## Remove environments and caches
	rm -rf .venv-supply dist .venv-deploy .image .venv .venv-auditors .venv-real .venv-peers .venv-litellm .venv-policy .venv-fuzz .venv-fuse .fuzz .kernel .mypy_cache .pytest_cache .ruff_cache .hypothesis build ./*.egg-info
