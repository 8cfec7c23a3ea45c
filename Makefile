# Two commands do everything on a machine with Python 3.11: make demo, make test.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
WORKERS ?= 2

.PHONY: demo test lint types tests notebooks docs constraints clean

demo: $(VENV)/demo.stamp
	$(BIN)/icl-locate demo --output runs/demo

test: lint types tests notebooks docs

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy
	$(BIN)/lint-imports

tests: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n $(WORKERS)
	ICL_LOCATE_UNTYPED=1 $(BIN)/python -m pytest -n $(WORKERS) tests/untyped

notebooks: $(VENV)/dev.stamp
	$(BIN)/python -m pytest --nbmake -o addopts= notebooks

docs: $(VENV)/dev.stamp
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt pip

$(VENV)/demo.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt --group dev -e .
	@touch $@ $(VENV)/demo.stamp

constraints: $(VENV)/dev.stamp
	{ head -n 1 constraints.txt; $(PIP) freeze --all --exclude-editable | sed 's/+cpu//'; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) runs docs/_build
