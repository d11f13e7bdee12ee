# Everything here is a command that could be typed by hand. Start with: make run
PYTHON ?= python3
URL ?= http://127.0.0.1:5000
ARGS ?=
LOCK = .venv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --quiet

.PHONY: help run test torture check tools conformance bench lock clean

help: ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 22

run: .venv/.run ## serve a registry on 127.0.0.1:5000, its data in ./data
	.venv/bin/image-registry serve --root data --listen 127.0.0.1:5000 $(ARGS)

test: check tools ## everything CI runs, two files at a time; installs what is missing and says so
	.venv/bin/python -m pytest --numprocesses=2 --dist=loadfile $(ARGS)

check: .venv/.dev ## ruff, mypy, import-linter
	.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy && .venv/bin/lint-imports

tools: .venv/.dev ## install the real clients and peers that the tests run against
	.venv/bin/python -m tests.parts

torture: check tools ## the long proofs: power cuts, kill -9, histories of three servers, each kubectl at each server
	.venv/bin/python -m pytest tests/torture tests/integration/test_bucket_*.py tests/integration/test_interop_buckets.py tests/integration/test_kubectl_matrix.py tests/e2e/test_journeys.py --torture $(ARGS)

conformance: .venv/.dev ## check the registry of make run, or that of URL=..., against the specification
	.venv/bin/python -m conformance.oci --url $(URL) $(ARGS)
	test -z "$$OCI_CONFORMANCE_PROGRAM" || .venv/bin/python -m conformance.official --url $(URL)

bench: .venv/.dev tools ## every benchmark against its peer, into conformance/benchmarks/RESULTS.md
	.venv/bin/python -m conformance.benchmarks $(ARGS)

lock: .venv/.dev ## resolve the lock files again; add ARGS=--upgrade for newer versions
	$(LOCK) --group build --output-file requirements.lock $(ARGS)
	$(LOCK) --group build --group dev --constraint requirements.lock --output-file requirements-dev.lock $(ARGS)

clean: ## remove what was made here, but not ./data
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# What serving needs, and nothing else. Made afresh whenever the lock changes, so nothing old stays in it.
.venv/.run: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The tools of `make check` and `make test` on top of it, at the same versions.
.venv/.dev: .venv/.run requirements-dev.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.lock
	@touch $@
