# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Needs Python 3.11 or newer and make; PYTHON=python3.12 picks another interpreter.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/demo

# Child processes read the compiled modules of earlier ones, hundreds of them in the tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-all test-device-old device-versions fuzz lint types format reproduce
.PHONY: soak clean help

help:            ## show the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/'

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=23.2"
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

setup: $(VENV)/.ready   ## make .venv with everything for development

demo: $(VENV)/.ready    ## phantoms -> train -> prune -> compact -> export -> score -> report (minutes)
	$(BIN)/pneumonia demo --out $(OUT)

lint: $(VENV)/.ready    ## ruff, and the Python 3.6 zone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready   ## mypy --strict
	$(BIN)/mypy

PYTEST = PYTHONHASHSEED=0 $(BIN)/pytest -n 2 --dist loadfile --durations=10

test: lint   ## lint, types and every test that is not marked slow (minutes)
	@# mypy uses one core: beside the tests it leaves none idle
	$(BIN)/mypy & types=$$!; $(PYTEST) -m "not slow" --hypothesis-profile=quick; tests=$$?; \
	  wait $$types && exit $$tests

test-all: lint types device-versions   ## all tests, those marked slow too (a quarter of an hour or more)
	$(DEVICE) $(PYTEST)

MINUTES ?= 10
SEED ?= $(shell date +%s)
fuzz: $(VENV)/.ready   ## for MINUTES=10 each: the property tests with new random numbers, and mutated DICOM files through the decoding child; prints cases to pin
	$(BIN)/python -m tests.support.fuzz --minutes $(MINUTES)
	$(BIN)/python -m tests.support.fuzz_dicom --minutes $(MINUTES) --seed $(SEED)

# For `make test-all`: what the device has: pydicom 2.3, pynetdicom 1.5, NumPy 1, click 8.0, under the Python of VENV to
# run the daemon's tests, and under Python 3.6, where there is one, to run the daemon itself. Made
# when missing; without a network their tests are skipped, and say so.
OLD ?= .venv-device-old
OLD36 ?= .venv-device-36
PYTHON36 ?= $(lastword $(wildcard /usr/bin/python3.6 $(HOME)/.pyenv/versions/3.6.*/bin/python3.6))
PACKAGES := "pydicom==2.3.1" "pynetdicom==1.5.7" "click==8.0.4"
DEVICE = PNEUMONIA_OLD_PYDICOM="$$(test ! -e $(OLD)/.ready || echo $(abspath $(OLD)))" \
  PNEUMONIA_PYTHON36="$$(test ! -e $(OLD36)/.ready || echo $(abspath $(OLD36))/bin/python)"

$(OLD)/.ready:
	$(PYTHON) -m venv $(OLD)
	$(OLD)/bin/python -m pip install --quiet $(PACKAGES) "numpy<2" "setuptools<70" pillow \
	  onnxruntime pytest pytest-timeout hypothesis
	touch $@

$(OLD36)/.ready:
	test -n "$(PYTHON36)" || { echo "there is no Python 3.6 here"; exit 1; }
	$(PYTHON36) -m venv $(OLD36)
	$(OLD36)/bin/python -m pip install --quiet "pip==21.3.1"  # its own knows no newer wheels
	$(OLD36)/bin/python -m pip install --quiet $(PACKAGES) "numpy==1.19.4" "Pillow==8.4.0" \
	  "onnxruntime==1.10.0"
	touch $@

device-versions:
	-@$(MAKE) --no-print-directory $(OLD)/.ready || echo "device: no pydicom 2.3; tests skipped"
	-@$(MAKE) --no-print-directory $(OLD36)/.ready || echo "device: no Python 3.6; tests skipped"

test-device-old: $(VENV)/.ready device-versions   ## the daemon with the device's packages and Python
	$(DEVICE) $(BIN)/pytest -q -rs tests/deploy_jetson/device/daemon/test_service.py \
	  tests/deploy_jetson/device/profile/test_standalone.py -k "of_the_device or standalone"

format: $(VENV)/.ready  ## let ruff format and sort
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

soak: $(VENV)/.ready    ## 2,000 images through the daemon: memory, descriptors, threads (minutes)
	$(BIN)/python -m benchmarks.device.daemon_soak

# The detector of docs/results.md from the given radiographs, or SCHEME=filter or column from the
# same dense network; called again, it goes on where it was interrupted. SOURCE is the folder with
# labels.csv and images.csv. Minutes of one core with bfloat16 instructions (Zen 4, beside other
# work): dense 66, again 60 and 43, then 4x 9, 9x 8, 18x 6, 36x 21, 60x 20; fine-tuning 31, 17 and 18
# (Xeon with AMX). With AVX2 alone about four times as long (estimated: 6 to 7 images a second
# instead of 25). The shipped model had 3, 4, 3 and 26 epochs of retraining; here every step before
# the last has 5. Its 14 further epochs of the dense network were `train` with
# `model.start_from`, averaged afterwards.
SOURCE ?= ../shared/data/rsna
NIH ?= ../shared/data/nih
RUNS ?= runs/reproduce
SCHEME ?= combined
FINETUNE = distil=0.7 parent_share=0.5 images_per_epoch=1500 validate_every=15 \
  retrain.epochs=30 retrain.optimiser.learning_rate=0.001
reproduce: $(VENV)/.ready    ## train the detector of docs/results.md and prune it to 60x (about five hours on one core)
	test -f $(RUNS)/data/dataset.json \
	  || $(BIN)/pneumonia data import-rsna $(SOURCE) --nih $(NIH) --out $(RUNS)/data
	$(BIN)/python -m benchmarks.detector.training --data $(RUNS)/data --out $(RUNS) \
	  --scheme $(SCHEME) --rates 4 9 18 36 60 \
	  --again optimiser.learning_rate=0.0012 seed=1 epochs=22 validate_every=11 \
	  --again optimiser.learning_rate=0.0012 seed=2 epochs=14 validate_every=7 \
	  model.class_head=true \
	  --prune distil=0.5 admm.epochs=3 admm.steps_per_update=30 images_per_epoch=1500 \
	  retrain.epochs=5 validate_every=5 --last retrain.epochs=26 validate_every=13 --last-from 36 \
	  --finetune dense retrain.epochs=14 retrain.optimiser.learning_rate=0.0012 parent_share=0.5 \
	  --finetune $(SCHEME)-36x teacher=$(RUNS)/dense $(FINETUNE) \
	  --finetune $(SCHEME)-36x-on teacher=$(RUNS)/dense-on $(FINETUNE)
	test -d $(RUNS)/bundle-$(SCHEME) || $(BIN)/pneumonia export $(RUNS)/$(SCHEME)-36x-on-on \
	  --out $(RUNS)/bundle-$(SCHEME)

clean:           ## remove caches and the demo's output
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis $(OUT)
