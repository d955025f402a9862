# Each target makes .venv itself when it is missing or older than the requirements. `make help` lists them.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
DEMO := data/demo
MINUTES ?= 20
TORCH := $(shell sed -n 's/^torch==//p' requirements.txt)
BENCHMARKS := adaptation backbone checksums costs evaluation features growth live preprocessing reading streaming training_step

.DEFAULT_GOAL := help
.PHONY: help demo test faults cluster fuzz bench lint format clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

$(STAMP): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  "error: expected Python 3.11 to 3.13, found %d.%d; give another one: make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv $(VENV)
	@$(RUN) -c 'import torch' 2>/dev/null || [ "$$(uname)" != Linux ] || command -v nvidia-smi >/dev/null || echo \
	  "note: PyTorch's default build for Linux brings gigabytes of CUDA libraries. For its CPU build, stop this, then" \
	  "$(RUN) -m pip install torch==$(TORCH) --index-url ADDRESS (pytorch.org, Get started, names the address)," \
	  "and run make again: it keeps what is there."
	$(RUN) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -r requirements-dev.txt
	@touch $(STAMP)

demo: $(STAMP) ## the whole pipeline on simulated recordings, a few minutes on two cores
	$(RUN) simulate_putemg.py $(DEMO)/raw/Data-HDF5
	$(RUN) preprocess.py --raw $(DEMO)/raw/Data-HDF5 --shards $(DEMO)/shards
	$(RUN) create_dataset_files.py --shards $(DEMO)/shards --out splits/demo --test 0.34 --overwrite
	$(RUN) train.py --shards $(DEMO)/shards --split splits/demo --out checkpoints/demo --init random --overwrite
	$(RUN) evaluate.py --checkpoint checkpoints/demo/best_model.ckpt --shards $(DEMO)/shards --split splits/demo \
	  --out results/demo
	$(RUN) evaluate.py --checkpoint checkpoints/demo/best_model.ckpt --shards $(DEMO)/shards --split splits/demo \
	  --adapt session --out results/demo-adapted
	@echo
	@echo "The recordings above were SIMULATED (simulate_putemg.py): the numbers say that the pipeline works, and"
	@echo "nothing about putEMG or any person. The column 'by chance' says what deciding without the signal would give."
	@echo "The first table is of the model as it was trained, the second of it adapted to each session without labels."
	@echo "Look at: results/demo/confusion_matrix.png, results/demo/per_subject.png, and the curves with"
	@echo "  $(VENV)/bin/tensorboard --logdir checkpoints"

test: $(STAMP) ## the tests, a few minutes
	$(RUN) -m pytest -n 2 --dist worksteal -m "not slow and not network and not gpu"

faults: $(STAMP) ## the long fault suite: kills, damaged files, hostile servers
	$(RUN) -m pytest -n 2 --dist worksteal tests/faults -m "not network and not gpu" --override-ini addopts="-q --strict-markers"

cluster: $(STAMP) ## a real Slurm on this machine (as root, with slurm-wlm and munge): runs launched on it, some minutes
	$(RUN) tests/cluster.py

fuzz: $(STAMP) ## damaged and hostile files at random, MINUTES for each of five readers
	$(RUN) tests/faults/fuzz_long.py --minutes $(MINUTES)

bench: $(STAMP) ## the benchmarks but gpu.py, half an hour
	for name in $(BENCHMARKS); do $(RUN) benchmarks/$$name.py || exit 1; done

lint: $(STAMP) ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy semg *.py
	$(RUN) -m mypy benchmarks

format: $(STAMP) ## format the code with ruff
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean: ## remove .venv, the demo's data and caches; recordings, checkpoints and results stay
	rm -rf $(VENV) $(DEMO) .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
