# Two commands do everything, set-up included: make demo, make test.
# Three verbs on data of your own: make cache-teacher, make distill, make eval. `make help` lists the variables.

# The Python of .venv: the first of these that is supported. `make setup PYTHON=...` names another.
SUPPORTED := (3, 11) <= sys.version_info[:2] <= (3, 13)
PYTHON ?= $(or $(shell for python in python3 python3.13 python3.12 python3.11; do \
  $$python -Sc 'import sys; sys.exit(not $(SUPPORTED))' 2>/dev/null && echo $$python && break; done),python3)
RUN_PY := .venv/bin/python cli.py
READY  := .venv/.ready
# libgl1 and libglib2.0-bin: what opencv-python, a requirement of FFCV, loads and a bare system lacks.
SYSTEM := g++ make pkg-config libturbojpeg0-dev libopencv-imgproc-dev libgl1 libglib2.0-bin python3-dev python3-venv \
  openclipart-png
# What the tests need besides: a browser that opens the report.
TEST_SYSTEM := chromium
# One line for each GPU; those of MIG slices are indented.
LISTED := nvidia-smi -L 2>/dev/null | grep ^GPU
FAISS  := $(if $(shell $(LISTED)),faiss-gpu,faiss-cpu)==1.15.1

# Training has one rank for each GPU, of those that CUDA_VISIBLE_DEVICES leaves.
GPUS   ?= $(shell if [ "$${CUDA_VISIBLE_DEVICES+set}" ]; then echo "$$CUDA_VISIBLE_DEVICES" | tr , '\n'; else $(LISTED); fi | grep -c .)
TRAIN  = $(if $(filter-out 0 1,$(GPUS)),.venv/bin/python -m torch.distributed.run --standalone --nproc-per-node=$(GPUS) cli.py,$(RUN_PY))

# What the verbs work on. Without DATA they use the demo's images and its recipes.
ifndef DATA
DATA         := data/clip-art
PRETRAIN_ARGS ?= --config recipes/demo/pretrain.toml
DISTILL_ARGS ?= --config recipes/demo/distill.toml
endif
TEACHER   ?= demo
WEIGHTS   ?=
STUDENT   ?= resnet18
OBJECTIVE ?= 1q
# Names for files: with a dash for each sign that a path or a shell would interpret.
plain      = $(shell printf %s "$(1)" | tr -c 'A-Za-z0-9._-' -)
NAME      := $(call plain,$(shell basename "$(DATA)"))
DATASET   ?= data/$(NAME)-dataset
CACHE     ?= caches/$(NAME)-$(call plain,$(TEACHER)).zarr
RUN       ?= runs/$(NAME)-$(OBJECTIVE)-$(call plain,$(STUDENT))
SCRATCH   ?= runs/$(NAME)-scratch-$(call plain,$(STUDENT))
UNTRAINED ?= runs/$(NAME)-untrained-$(call plain,$(STUDENT))
PIXELS    ?= caches/$(NAME)-pixels.zarr
SWEEPS    := table1 students ablations
BEYOND    := bench tuning tuned two-queues candidates infonce candidates-tuned large-crops forms views anchors teachers
PLANS     := imagenet-1k imagenet-22k billion
REPORT    ?= runs/report-$(NAME).html

.PHONY: help setup system test-system demo dataset cache-teacher cache distill scratch untrained pixels eval report sweeps readme bench lint test test-long torture gpu-check

help:
	@sed -n '1,3p' Makefile | sed 's/^# *//'
	@echo 'variables: DATA TEACHER WEIGHTS STUDENT OBJECTIVE CACHE RUN DATASET GPUS, and PACK_ARGS CACHE_ARGS DISTILL_ARGS EVAL_ARGS'
	@echo 'for further flags; `.venv/bin/python cli.py --help` lists every command'

setup: $(READY)

# Install the Debian packages that are missing, as root; anyone else gets the one line to run. A package whose command is
# in PATH already is not missing.
define install
@command -v dpkg-query >/dev/null || { echo 'not a Debian system: use conda, `conda env create -f environment.yml`'; exit 1; }
@missing=; for package in $(1); do \
  command -v $$package >/dev/null || dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'install ok installed' || missing="$$missing $$package"; \
done; \
if [ -z "$$missing" ]; then :; \
elif [ "$$(id -u)" = 0 ]; then \
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
else echo "Some packages are missing. Run: sudo apt-get install --no-install-recommends$$missing"; exit 1; fi
endef

system:
	$(call install,$(SYSTEM))

test-system: | system
	$(call install,$(TEST_SYSTEM))

$(READY): requirements.txt assets/opencv/opencv4.pc | system
	$(PYTHON) -Sc 'import sys; sys.exit(not $(SUPPORTED) and "expected Python 3.11, 3.12 or 3.13, found " + sys.version.split()[0] + ": install one of them and name it, as in `make setup PYTHON=python3.13`")'
	$(PYTHON) -m venv .venv
	PKG_CONFIG_PATH=$(CURDIR)/assets/opencv .venv/bin/python -m pip install --disable-pip-version-check -q -r requirements.txt $(FAISS)
	@touch $(READY)

# Two folders of one name would share a dataset.
define SAME_FOLDER
import sys
from pathlib import Path
from pipeline.images.dataset import open_dataset
data, dataset = map(Path, sys.argv[1:])
packed = open_dataset(dataset).data
if data.is_file():  # a list of images, which are beside it
    data = data.parent
if data.exists() and data.resolve() != packed:
    sys.exit(f"error: {dataset} was packed from {packed}, not from {data}: name another one, DATASET=...")
endef
export SAME_FOLDER

# Two weights files of one teacher would share a cache.
define SAME_WEIGHTS
import sys
from pathlib import Path
from cache.reader import open_store
cache, weights = map(Path, sys.argv[1:])
made_from = open_store(cache).origin.get("file", weights.name)
if made_from != weights.name:
    sys.exit(f"error: {cache} was made from {made_from}, not from {weights.name}: name another one, CACHE=...")
endef
export SAME_WEIGHTS

# Paths stand in quotes and are no targets, since make allows neither spaces nor colons in those.
# Packed once: to compare a dataset with its images again, run `pack` by hand.
dataset: $(READY)
ifeq ($(DATA),data/clip-art)
	@test -e "$(DATASET)/dataset.json" || $(RUN_PY) demo-data "$(DATA)"
endif
	@test -e "$(DATASET)/dataset.json" || $(RUN_PY) pack "$(DATA)" "$(DATASET)" $(PACK_ARGS)
	@.venv/bin/python -c "$$SAME_FOLDER" "$(DATA)" "$(DATASET)"

cache-teacher: dataset
	$(RUN_PY) cache-teacher "$(DATASET)" "$(CACHE)" --teacher "$(TEACHER)" $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(CACHE_ARGS)

# Fill the cache unless it is there; what is missing in one is for `make cache-teacher`.
cache: $(READY)
	@test -e "$(CACHE)" || $(MAKE) --no-print-directory cache-teacher
	$(if $(WEIGHTS),@.venv/bin/python -c "$$SAME_WEIGHTS" "$(CACHE)" "$(WEIGHTS)")

distill: cache
	$(TRAIN) distill "$(DATASET)" "$(CACHE)" "$(RUN)" --student "$(STUDENT)" --objective $(OBJECTIVE) $(DISTILL_ARGS)

# What a distilled student is compared with: from scratch on as many images, untrained, and raw pixels.
scratch: dataset
	$(TRAIN) pretrain "$(DATASET)" "$(SCRATCH)" --student "$(STUDENT)" $(PRETRAIN_ARGS)

untrained: dataset
	$(RUN_PY) pretrain "$(DATASET)" "$(UNTRAINED)" --student "$(STUDENT)" $(PRETRAIN_ARGS) --epochs 0

pixels: dataset
	$(RUN_PY) cache-teacher "$(DATASET)" "$(PIXELS)" --teacher pixels

# Every run and cache of these images: as a table, and as a page with pictures.
targets = set --; for target in "$(CACHE)" runs/$(NAME)-* "$(PIXELS)"; do [ ! -e "$$target" ] || set -- "$$@" "$$target"; done;

eval: $(READY)
	@$(targets) $(RUN_PY) eval "$$@" --dataset "$(DATASET)" $(EVAL_ARGS)

report: $(READY)
	@$(targets) $(RUN_PY) report "$$@" --dataset "$(DATASET)" --out "$(REPORT)"

# `make scratch eval report` adds the same network trained from scratch, which takes about as long again.
demo: setup
	$(MAKE) --no-print-directory distill untrained pixels
	$(MAKE) --no-print-directory eval
	$(MAKE) --no-print-directory report

# The paper's Table 1 and ablations in small, on CIFAR-10: hours; resumable, and what is recorded is not run again.
sweeps: $(READY)
	$(foreach sweep,$(SWEEPS),$(RUN_PY) sweep recipes/cifar10/$(sweep).toml;)

# Rewrite the tables of README and docs from the recorded metrics and benchmarks.
readme: $(READY)
	$(foreach sweep,$(SWEEPS),$(RUN_PY) report recipes/cifar10/$(sweep).toml --out docs/results.md --name cifar10-$(sweep) &&) true
	$(foreach sweep,$(BEYOND),$(RUN_PY) report recipes/cifar10/$(sweep).toml --out docs/beyond.md --name cifar10-$(sweep) &&) true
	$(foreach sweep,infonce reg-bn large-crops,$(RUN_PY) report recipes/fashion_mnist/$(sweep).toml --out docs/beyond.md --name fashion-$(sweep) &&) true
	$(foreach sweep,reg-bn large-crops,$(RUN_PY) report recipes/clip_art/$(sweep).toml --out docs/beyond.md --name clip-art-$(sweep) &&) true
	$(foreach caches,forms teachers,$(RUN_PY) report docs/results/cifar10-$(caches).json --out docs/beyond.md --name cifar10-$(caches)-caches &&) true
	$(RUN_PY) report $(sort $(wildcard docs/results/cifar10-int8/*.json)) --out docs/beyond.md --name cifar10-int8
	.venv/bin/python -m recipes.cifar10.anchor_error --table
	.venv/bin/python -m recipes.cifar10.curves --table
	$(RUN_PY) report $(sort $(wildcard docs/results/demo/*.json)) --out README.md --name demo
	$(RUN_PY) report $(sort $(wildcard docs/results/cifar10/*.json)) --out docs/results.md --name cifar10
	$(foreach plan,$(PLANS),$(RUN_PY) plan --config recipes/plans/$(plan).toml --out docs/scaling.md --name plan-$(plan) &&) true
	.venv/bin/python -m tests.benchmarks --readme docs/benchmarks.md --headlines README.md
	.venv/bin/python -m tests.gpu.page

# What costs how much, against what one would use instead: an hour of a machine that does nothing else, 12 GB of disk.
# SCRATCH_FOLDER says where; BENCH names some of them, as in `make bench BENCH="rows loader"`.
bench: $(READY)
	.venv/bin/python -m tests.benchmarks $(BENCH) $(if $(SCRATCH_FOLDER),--scratch $(SCRATCH_FOLDER))

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# In the order of their names, or the commands of tests/system would come last, one after the other.
PYTEST := OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: test-system $(READY)
	$(PYTEST)

# What `make test` leaves out: the demo, rehearsals of gpu-check and torture, kills, clusters, and several processes.
test-long: test-system $(READY)
	$(PYTEST) -m long

# Whether this machine's GPU computes what the CPU does, and how fast: docs/gpu.md says more. Minutes; no network.
gpu-check: $(READY)
	GPU_CHECK_OUT=runs/gpu-check .venv/bin/python -m pytest tests/gpu
	.venv/bin/python -m tests.gpu.rates --out runs/gpu-check

# Kills, failures and interruptions of the three stages, corruptions of a cache, and many runs over one: an hour or two
# on one core. What was shown is kept in runs/torture, so that the same command goes on.
torture: $(READY)
	.venv/bin/python -m tests.torture
	.venv/bin/python -m tests.torture.corruptions
	.venv/bin/python -m tests.torture.soak
