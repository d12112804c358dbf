PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install quickstart docs notebooks test test-all test-gpu lint chromium clean

install: $(STAMP)

# The stamp is the last thing written: an interrupted install is done again.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable \
		'.[dev,dashboard,torchao,signing,notebooks,adapters,worker,ray]'
	mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/paretune
	touch $@

quickstart: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m paretune.agent.quickstart

# The tables of docs/study-file.md, after a key of study files or its docstring has changed.
docs: install
	$(BIN)/python benchmarks/study_file_reference.py

# The notebooks with the outputs of this machine; some minutes.
notebooks: install
	$(BIN)/python benchmarks/run_notebooks.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What the browser tests drive; without it they are skipped.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
		echo "The browser tests will be skipped: apt-get install chromium"

# Some files of tests at a time: most of what a test waits for is a process with one thread.
test: lint chromium
	$(BIN)/python -m pytest -m "not gpu and not slow" -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The slow ones too: before a release, and after a change of launching, continuing or killing.
test-all: lint chromium
	$(BIN)/python -m pytest -m "not gpu" -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-gpu: install
	$(BIN)/python -m pytest -m gpu

clean:
	rm -rf $(VENV) build dist *.egg-info
