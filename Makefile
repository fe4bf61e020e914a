# Every target sets up what it needs: a virtual environment in .venv with pinned versions.
# Another interpreter (3.11 to 3.13) gets its own environment: make test PYTHON=python3.13

PYTHON ?= python3
ifeq ($(PYTHON),python3)
  VENV ?= .venv
else
  VENV ?= .venv-$(notdir $(PYTHON))
endif
PY := $(VENV)/bin/python
INSTALL := PIP_DISABLE_PIP_VERSION_CHECK=1 $(PY) -m pip install -q -c .ci/constraints.txt
SET_UP := pyproject.toml .ci/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check parity slow chaos fuzz slurm lineage claims tpu clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' Makefile | expand -t 16

demo: $(VENV)/.ready ## train LeNet-5 on real digits, evaluate the checkpoint, write the report
	rm -rf runs/demo
	$(PY) -m train --config=configs/lenet_mnist.py --workdir=runs/demo
	$(PY) -m train.evaluate --workdir=runs/demo
	$(PY) -m train.report --workdir=runs/demo

# Most of the tests' time is XLA's optimisations. The comparisons of `make parity` keep them.
test: $(VENV)/.tpu ## run the tests, except parity and slow
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PY) -m pytest -n 2 --dist worksteal -m "not slow and not parity" tests

check: $(VENV)/.ready ## check lint, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

parity: $(VENV)/.parity ## compare with torchvision, timm, TF-slim and Keras (installs torch)
	$(PY) -m pytest -n 2 --dist worksteal -m "parity and not slow" tests

slow: $(VENV)/.parity ## run the tests that take minutes: five seeds of the demo, large networks
	$(PY) -m pytest -m slow tests

chaos: $(VENV)/.ready ## disturb 20 runs, compare each with an undisturbed one (7 minutes)
	$(PY) -m tests.train.chaos --runs=20

fuzz: $(VENV)/.ready ## try 1,000 wrong inputs, each of which has to end in a sentence
	$(PY) -m tests.fuzz --inputs=1000

slurm: $(VENV)/.ready ## run configs/cluster/slurm.sh on a SLURM of one node (installs Debian's; root)
	@command -v slurmctld munged >/dev/null || \
		{ apt-get update -q && apt-get install -q -y --no-install-recommends slurm-wlm munge; }
	$(PY) -m tests.slurm

LINEAGE := lenet5,alexnet,alexnet_owt,vgg11,vgg11_bn,vgg16,vgg16_bn,vgg19,inception_v1,inception_v1_bn
LINEAGE := $(LINEAGE),inception_v2,inception_v3,inception_v4,inception_resnet_v1,inception_resnet_v2

lineage: $(VENV)/.ready ## train 15 networks on small digits, write runs/lineage/sweep.md (an hour; SEEDS=3)
	$(PY) -m train.sweep --config=configs/lineage_mnist5k.py --workdir=runs/lineage --grid.recipe=$(LINEAGE) --seeds=$(or $(SEEDS),1)

claims: $(VENV)/.ready ## test what the papers claim, write runs/claims/lineage.html (an hour; it resumes)
	$(PY) -m train.lineage --jobs=2

TPU := alexnet_owt,vgg16,inception_v1_bn,inception_v3,inception_v4,inception_resnet_v2

tpu: $(VENV)/.tpu ## compile the large networks for TPUs, compare with the committed figures (minutes)
	$(PY) -m train.benchmark --what=tpu --model=$(TPU)

clean: ## remove environments and caches
	rm -rf .venv .venv-* build *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.ready: $(SET_UP)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "error: Python 3.11, 3.12 or 3.13 is needed; name one with make PYTHON=python3.12"; exit 1; }
	@echo "setting up $(VENV) (about three minutes)…"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e '.[test]'
	@touch $@

# Only the tests, and forecasts, need the TPUs' compiler: hundreds of megabytes.
$(VENV)/.tpu: $(VENV)/.ready
	@echo "adding libtpu to $(VENV)…"
	@$(INSTALL) -e '.[tpu]'
	@touch $@

# Parity compares definitions on random weights, so these packages' own dependencies are not needed.
$(VENV)/.parity: $(VENV)/.ready
	@echo "adding torch, torchvision, timm and tf-slim to $(VENV)…"
	@$(INSTALL) torch
	@$(INSTALL) --no-deps torchvision timm tf-slim
	@touch $@
