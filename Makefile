# `make` lists the commands. The two that matter: `make course` and `make test`.

VENV   ?= .venv
# The interpreter that makes the virtual environment: Python 3.11 or later. `make PYTHON=/path/to/python3.12` overrides.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3 python,$(shell command -v $(name) 2>/dev/null)))

RUN   := $(VENV)/bin/python
STAMP := $(VENV)/.installed
TIMES := $(VENV)/.times
# Several files at a time with a core each take less time than one after the other with all cores; one more than there
# are cores works while others wait for a browser.
WORKERS ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores < 4 ? cores + 1 : 4)))
LANES := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout=600 --nbval-sanitize-with tests/nbval_sanitize.cfg

export COURSE_PROFILE ?= cpu
export PYTHONHASHSEED ?= 0
# How PyTorch's threads wait for one another: see helpers/__init__.py. Whoever has set a value keeps it.
ifeq ($(origin OMP_WAIT_POLICY)$(origin GOMP_SPINCOUNT),undefinedundefined)
export GOMP_SPINCOUNT := 1000
endif

.DEFAULT_GOAL := help
.PHONY: help install course test lab pages execute bench check lowest clean lint suite

help:  ## this list
	@echo "make course    install, render the course pages, execute every notebook: start here"
	@echo "make test      install, then lint, pages, unit tests and the notebooks' stored outputs"
	@echo "make lab       open the course in JupyterLab"
	@echo "make install   install the packages; the other commands do it when it is needed"
	@echo "make pages     render the pages from the notebooks as they are stored"
	@echo "make execute   execute the notebooks and store their outputs in place"
	@echo "make bench     time the course beside other libraries: 25 minutes"
	@echo "make check     recompute the figures that the course claims"
	@echo "make lowest    the unit tests on the oldest versions that pyproject.toml allows"
	@echo "make clean     remove what was built (the virtual environment stays)"
	@echo
	@echo "Needs Python 3.11 or later. COURSE_PROFILE=gpu trains on photographs, on a GPU."

$(STAMP): pyproject.toml constraints.txt
	@if [ ! -x "$(RUN)" ]; then \
	  if ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "The course needs Python 3.11 or later and found '$(PYTHON)'."; \
	    echo "Install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; \
	  fi; \
	  echo "Making $(VENV) with $(PYTHON)"; \
	  "$(PYTHON)" -m venv "$(VENV)" || { \
	    echo "Could not make $(VENV): on Debian and Ubuntu, install the package python3-venv."; exit 1; }; \
	fi
	@echo "Installing the packages of constraints.txt (some minutes and about 6 GB the first time)"
	@$(RUN) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[pages,test]'
	@touch $@

install: $(STAMP)

# What was executed is kept: after Ctrl-C the next call continues. NOTEBOOKS="01 11" executes only these.
course: $(STAMP)
	@$(RUN) -m pages.course $(NOTEBOOKS)

pages: $(STAMP)
	@$(RUN) -m pages.build

execute: $(STAMP)
	@$(RUN) -m pages.execute --in-place

lab: $(STAMP)
	@$(RUN) -m jupyterlab --notebook-dir=. --LabApp.default_url=/lab/tree/notebooks

bench: $(STAMP)
	@$(RUN) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@$(RUN) -m benchmarks all

check: $(STAMP)
	@$(RUN) -m benchmarks check

# Another virtual environment beside the first, with every lower bound of pyproject.toml as the version.
lowest: OLD := $(VENV)-lowest
lowest:
	@"$(PYTHON)" -m venv "$(OLD)"
	@"$(PYTHON)" -m tests.lowest > $(OLD)/versions.txt
	@if $(OLD)/bin/python -m pip install --disable-pip-version-check -c $(OLD)/versions.txt -e '.[pages,test]' \
	    > $(OLD)/pip.txt 2>&1; then \
	  OMP_NUM_THREADS=1 $(OLD)/bin/python -m pytest -q $(LANES) tests --ignore tests/browser --ignore tests/notebooks; \
	elif tail -n 20 $(OLD)/pip.txt; grep -A 9 'conflict is caused by' $(OLD)/pip.txt | grep -q ' depends on '; then \
	  echo "The lower bounds of pyproject.toml contradict one another: raise one."; exit 1; \
	else echo "The oldest versions cannot be had here: not tested."; fi

# One step of `make test`: run it, and note its wall time whether it passes or not.
define timed
@start=$$(date +%s); $(2); status=$$?; echo "$(1) $$(($$(date +%s) - start))" >> $(TIMES); exit $$status
endef

# Lint keeps one core busy for a minute, so it runs beside the suite; what it finds is printed at once.
test: $(STAMP)
	@rm -f $(TIMES); start=$$(date +%s); status=0; \
	$(MAKE) --no-print-directory lint & lint=$$!; \
	echo "== lint and suite"; \
	$(MAKE) --no-print-directory suite || { status=1; echo "== suite FAILED"; }; \
	wait $$lint || { status=1; echo "== lint FAILED"; }; \
	echo "== seconds"; cat $(TIMES); echo "together $$(($$(date +%s) - start))"; \
	exit $$status

lint: $(STAMP)
	$(call timed,lint,$(RUN) -m ruff check . && $(RUN) -m ruff format --check -q . && $(RUN) -m mypy --no-error-summary)

suite: $(STAMP)
	$(call timed,suite,OMP_NUM_THREADS=1 $(RUN) -m pytest -q --durations=15 $(LANES) $(NBVAL) notebooks tests)

clean:
	rm -rf pages/_build .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
