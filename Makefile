# Every verb does its own set-up, and repeats it only when the list of packages has changed.
#   make run PYTHON=python3.12     another interpreter for a new .venv (3.11 or later)
#   make test ARGS="-k tags"       arguments for the tool behind the verb
VENV ?= .venv
PYTHON ?= python3 python3.13 python3.12 python3.11
ARGS ?=
PY := $(VENV)/bin/python

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test lint train bench

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## */  make \1	/'

run: $(VENV)/run.stamp  ## start the app on http://localhost:7860
	$(PY) app.py

test: $(VENV)/dev.stamp  ## run the tests
	$(PY) -m pytest $(ARGS)

lint: $(VENV)/dev.stamp  ## check style and layering
	$(PY) -m ruff check .

train: $(VENV)/dev.stamp  ## data, SFT, RAFT and bench of the scale model: 22 minutes on two cores with AMX, 27 with AVX512-BF16, an hour on older ones
	$(PY) training/run.py $(ARGS)

bench: $(VENV)/dev.stamp  ## the engine's speed against three generate() calls
	$(PY) benchmarks/decode.py $(ARGS)

# The first interpreter that is new enough; a version manager's shim that does not start is passed over.
$(PY):
	@for python in $(PYTHON); do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "$$python -m venv $(VENV)"; exec $$python -m venv $(VENV); fi; done; \
	echo "Evoxtral needs Python 3.11 or later: install it, or name one with PYTHON=..." >&2; exit 1

$(VENV)/run.stamp: requirements.txt | $(PY)
	$(PY) -m pip install -r requirements.txt
	@touch $@

$(VENV)/dev.stamp: requirements.txt pyproject.toml | $(PY)
	$(PY) -m pip install -e '.[dev]'
	@touch $@ $(VENV)/run.stamp
