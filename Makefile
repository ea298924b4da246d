# make install: spoter-kit in .venv, for use. The others set up .venv with what development needs, too.
# make demo: the whole story on generated signing.
# make test: lint, types, tests, in five minutes on two cores.
# make test-all: the slow tests and the documentation too, as continuous integration does.
# make fuzz: malformed input for every reader, for an hour or HOURS=10.
# make faults: a full disk, a broken one and a kill at each point of ten verbs, for an hour of one core.
# make docs: the documentation as a site, build/docs/site/index.html.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The versions that the tests ran with; only errors are printed.
PIP_INSTALL = PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install -qq --disable-pip-version-check
# Shows that what follows lives: pip says nothing for minutes. `sleep` writes elsewhere, or a pipe would wait for it.
SAY_TIME = (s=0; while sleep 20 >/dev/null 2>&1; do s=$$((s + 20)); \
	echo "  $$s s, $$(du -sm $(VENV) | cut -f1) MB in $(VENV)"; done) & trap "kill $$!" EXIT;
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

HOURS ?= 1

.PHONY: help install demo docs test test-all fuzz faults lint types clean

help:
	@sed -n 's/^# //p' Makefile | sed -n '/^make/p'

# Without the tools of the tests and the documentation. Nothing else needs to know that it ran.
install:
	@echo 'installing spoter-kit and 60 packages into $(VENV): two to six minutes.'
	@echo 'PyTorch is the largest: 200 MB for CPUs, several GB for NVIDIA GPUs.'
	@echo 'docs/how-to/install.md says how to choose.'
	@$(PYTHON) -m venv $(VENV)
	@$(SAY_TIME) $(PIP_INSTALL) -e '.[cpu,landmarker,toolkit,video]'
	@echo 'installed: source $(BIN)/activate, then spoter-kit doctor'

demo: $(READY)
	@$(BIN)/spoter-kit demo --force

docs: $(READY)
	$(BIN)/python docs_tools/build.py

# What comes before the tests keeps one core busy each, so two of it run beside one another.
test:
	@$(MAKE) --no-print-directory -j2 lint types
	$(PYTEST) -m 'not slow'

test-all:
	@$(MAKE) --no-print-directory -j2 docs types lint
	$(PYTEST)

fuzz: $(READY)
	@mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py --hours $(HOURS) --state build/fuzz.json

faults: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/verb_faults.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# Made anew when what is to be installed changes; a run that was cut short leaves no mark and starts again.
# Python compiles what is imported, a small part of it, when it is.
$(READY): pyproject.toml constraints.txt
	@echo 'installing what development needs into $(VENV): two to eight minutes.'
	@echo 'PyTorch is the largest: 200 MB or more.'
	@$(PYTHON) -m venv $(VENV)
	@$(SAY_TIME) $(PIP_INSTALL) --no-compile -e '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) build dist demo
