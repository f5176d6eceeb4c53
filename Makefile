# Everything from a fresh machine: `make quickstart`, `make test`.
PYTHON ?= python3
VENV ?= .venv
OUT ?= out/quickstart
ARGS ?=
# Versions for a cluster: `make install LOCK=cluster/requirements.lock`. Without it, the newest that fit.
LOCK ?=

.PHONY: install quickstart benchmark test smoke lint docs lock

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet $(if $(LOCK),--constraint $(LOCK)) --editable ".[dev]"
	touch $@

quickstart: install
	$(VENV)/bin/jointsampler run pipeline --config quickstart --out $(OUT)

# Speed on this machine; arguments as in `make benchmark ARGS="--batch 1 --length 128"`.
benchmark: install
	$(VENV)/bin/jointsampler benchmark $(ARGS)

test: install
	$(VENV)/bin/python -m pytest

# The whole chain once, small: on a CUDA device where there is one, in under ten minutes.
smoke: install
	$(VENV)/bin/python -m pytest tests/ray/test_smoke.py -rs

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

docs: install
	$(VENV)/bin/mkdocs build --strict

# Resolves pyproject.toml and its extras anew, for Python 3.11 and newer (the checks of cluster/ need it).
lock: install
	$(VENV)/bin/python -m pip install --quiet uv
	$(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --no-annotate \
	  --custom-compile-command "make lock" --output-file cluster/requirements.lock pyproject.toml
