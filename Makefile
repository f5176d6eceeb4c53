# Everything from a fresh machine: `make quickstart`, `make test`.
PYTHON ?= python3
VENV ?= .venv
OUT ?= out/quickstart
ARGS ?=

.PHONY: install quickstart benchmark test lint docs

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable ".[dev]"
	touch $@

quickstart: install
	$(VENV)/bin/jointsampler run pipeline --config quickstart --out $(OUT)

# Speed on this machine; arguments as in `make benchmark ARGS="--batch 1 --length 128"`.
benchmark: install
	$(VENV)/bin/jointsampler benchmark $(ARGS)

test: install
	$(VENV)/bin/python -m pytest

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

docs: install
	$(VENV)/bin/mkdocs build --strict
