# Two commands do everything on a machine with Python 3.11: make demo, make test.
# make lowest: the same tests with the lowest versions that pyproject.toml declares.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
WORKERS ?= 2

.PHONY: demo test lint types tests thorough notebooks docs lowest constraints clean

demo: $(VENV)/demo.stamp
	$(BIN)/icl-locate demo --output runs/demo

test: lint types tests docs

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy
	$(BIN)/lint-imports

tests: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
	ICL_LOCATE_UNTYPED=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/untyped

# What `make test` leaves out: slow tests, and more random examples and kills of the others.
thorough: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow
	ICL_LOCATE_EXAMPLES=50 ICL_LOCATE_KILLS=40 $(BIN)/python -m pytest -n $(WORKERS) \
		--dist worksteal tests/test_laws.py tests/test_survival.py

# The docs execute the notebooks, too, and fail where one does: `make test` runs them once.
notebooks: $(VENV)/dev.stamp
	$(BIN)/python -m pytest --nbmake -o addopts= notebooks

docs: $(VENV)/dev.stamp
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

lowest: $(LOWEST)/stamp
	$(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal
	ICL_LOCATE_UNTYPED=1 $(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal tests/untyped

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt pip

$(VENV)/demo.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing icl_locate and what it needs into $(VENV); the first time takes minutes"
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing icl_locate and its tools into $(VENV); the first time takes minutes"
	$(PIP) install -q -c constraints.txt --group dev -e .
	@touch $@ $(VENV)/demo.stamp

$(LOWEST)/bin/python:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install -q -c constraints.txt pip

$(LOWEST)/stamp: $(LOWEST)/bin/python pyproject.toml constraints.txt tests/lowest.py
	@echo "installing the lowest versions into $(LOWEST); the first time takes minutes"
	$(LOWEST)/bin/python tests/lowest.py > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install -c $(LOWEST)/lowest.txt --group test -e .[language]
	@touch $@

constraints: $(VENV)/dev.stamp
	{ head -n 1 constraints.txt; $(PIP) freeze --all --exclude-editable | sed 's/+cpu//'; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) $(LOWEST) runs docs/_build
