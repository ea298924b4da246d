# make demo: the whole story on generated signing. make test: lint, types, tests, in five minutes on two cores.
# make test-all: the slow tests too, as continuous integration does. Each sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: demo test test-all lint types clean

demo: $(READY)
	$(BIN)/spoter-kit demo --force

test: lint types
	$(PYTEST) -m 'not slow'

test-all: lint types
	$(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# Made anew when what is to be installed changes; a run that was cut short leaves no mark and starts again.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) dist demo
