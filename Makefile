# `make help` lists the targets. Options are variables: make table1 PROFILE=quick MODELS=vgg19
VENV := .venv
NOTEBOOKS := table1 table2 table3 figure1 figure2 figure3 figure4 figure5 budget claims
# The explorer is no page of the paper: no target makes it.
CHECKED := $(NOTEBOOKS) explore
OPTIONS := PROFILE DATASETS MODELS TEMPLATES WIDTHS SEEDS DEVICE MINUTES TRAIN REMEASURE

# A misspelt option would be hours of another choice: an error, before anything starts.
given := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
goals := $(or $(MAKECMDGOALS),help)
takes := $(if $(filter $(NOTEBOOKS) paper,$(goals)),$(OPTIONS)) $(if $(filter data,$(goals)),DATASETS) \
	$(if $(filter lock lab test test-slow test-setup bench coverage gpu-check,$(goals)),ARGS)
unknown := $(filter-out $(takes) VENV PYTHON TORCH SHELL MAKEFLAGS,$(given))
$(if $(unknown),$(error expected options among $(strip $(takes) (of setup: VENV PYTHON TORCH)), got $(unknown)))

# Values may hold spaces and quotes. What is given empty (SEEDS=) is passed on, and is an error there.
quote = '$(subst ','\'',$1)'
is_given = $(or $($1),$(filter $1,$(given)))
option = $(if $(is_given),--$2 $(call quote,$($1)))
# $(call switch,NAME,word for 0,word for 1)
switch = $(if $(is_given),$(if $(filter 0,$($1)),$2,$(if $(filter 1,$($1)),$3,$(error \
	expected $1=0 or $1=1, got $1=$($1)))))
# Joined here, so that a recipe is one command that make runs without a shell: Ctrl-C meets Python alone.
choices := $(strip $(call option,PROFILE,profile) $(call option,DATASETS,datasets) \
	$(call option,MODELS,models) $(call option,TEMPLATES,templates) $(call option,WIDTHS,widths) \
	$(call option,SEEDS,seeds) $(call option,DEVICE,device) $(call option,MINUTES,minutes) \
	$(call switch,TRAIN,--no-train,--train) $(call switch,REMEASURE,,--remeasure))

# In quotes the shell leaves `~`, and make's own functions for paths take a space for two names.
override VENV := $(patsubst ~/%,$(HOME)/%,$(VENV))
place := $(if $(filter /%,$(firstword $(VENV))),,$(CURDIR)/)$(VENV)
python := $(call quote,$(patsubst ~/%,$(HOME)/%,$(or $(PYTHON),python3)))
run := $(call quote,$(VENV)/bin/python) -m
# Workers share the cores better than one worker's threads do; beyond four they only pay for imports.
workers := -n auto --maxprocesses 4

# What runs is the environment's: its kernel before another of the same name, and no module from
# elsewhere, but where TORCH=system may find its torch there.
export JUPYTER_PATH := $(place)/share/jupyter$(if $(JUPYTER_PATH),:$(JUPYTER_PATH))
unexport PYTHONHOME
ifneq ($(TORCH),system)
unexport PYTHONPATH
endif

.DEFAULT_GOAL := help
.PHONY: help setup lock lint format $(NOTEBOOKS) paper data publish lab \
	test test-slow test-setup bench coverage gpu-check clean

help: ## list the targets
	@sed -n 's/^\([^ :]*\):.*## /\1 /p' Makefile \
		| awk '{ target = $$1; $$1 = ""; printf "  %-11s%s\n", target, $$0 }'
	@echo 'Options: PROFILE=quick DATASETS=cifar10 MODELS=vgg19,mobilenet TEMPLATES=base WIDTHS=0.5,1'
	@echo '         SEEDS=0,1 DEVICE=cuda MINUTES=30; TRAIN=0 shows what is there; REMEASURE=1 measures again'

setup: ## build .venv, once [VENV=folder PYTHON=python3 TORCH=system: use PYTHON's own torch]
	@$(python) -E tools/setup_env.py $(call quote,$(VENV)) $(call option,TORCH,torch) \
		$(call option,PYTHON,python) $(if $(filter setup,$(MAKECMDGOALS)),,--quiet)

lock: setup ## remake requirements.lock from pyproject.toml [ARGS=--upgrade]
	$(run) uv pip compile pyproject.toml --group dev --universal --python-version 3.11 \
		--generate-hashes --custom-compile-command 'make lock' --quiet -o requirements.lock $(ARGS)

lint: setup ## check format and style
	$(run) ruff format --check
	$(run) ruff check

format: setup ## format, and mend what the linter can
	$(run) ruff format
	$(run) ruff check --fix

table1: ## accuracy on CIFAR-10 and CIFAR-100
table2: ## accuracy and parameters on Tiny-ImageNet
table3: ## parameters, memory and inference time
figure1: ## filters per layer under the templates
figure2: ## accuracy against parameters
figure3: ## accuracy against memory
figure4: ## accuracy against inference time
figure5: ## the four base distributions
budget: ## templates at the base's own MACs and parameters
claims: ## the paper's claims, by its own numbers and by ours
$(NOTEBOOKS): setup
	$(run) fredist render $@ $(choices)

# One that fails, such as a table that a data set named here is not of, stops no other.
ifneq ($(filter paper,$(MAKECMDGOALS)),)
MAKEFLAGS += --keep-going
endif

paper: $(NOTEBOOKS) ## run every notebook, with the same options; -j2 is safe

data: setup ## fetch and check the data sets [DATASETS=cifar10,cifar100]
	$(run) fredist data $(call option,DATASETS,datasets)

publish: setup ## remake the committed tables, notebooks and page from the shipped records
	$(run) fredist publish

lab: setup ## open copies of the notebooks [ARGS="--no-browser --port 8889"]
	$(run) fredist lab $(ARGS)

# The committed notebooks are checked against the shipped records alone, not the user's own.
test: setup ## the quick tests [ARGS], then the notebooks' checked cells
	env OMP_NUM_THREADS=1 $(run) pytest $(workers) $(ARGS)
	env FREDIST_RUNS=$(call quote,$(place)/notebook-check/runs) \
		FREDIST_FIGURES=$(call quote,$(place)/notebook-check/figures) \
		$(run) pytest $(workers) --dist loadfile --nbval-lax --nbval-current-env \
		$(CHECKED:%=notebooks/%.ipynb)

test-slow: setup ## the slow tests, but for test-setup's [ARGS]
	$(run) pytest -m slow --ignore tests/test_setup.py $(ARGS)

test-setup: setup ## build an environment on this one's torch, as TORCH=system does [ARGS]
	$(run) pytest -m slow tests/test_setup.py $(ARGS)

bench: setup ## time training and evaluation against the usual script [ARGS="--models vgg19"]
	$(run) benchmarks.bench --train $(ARGS)

coverage: setup ## redistribute every CNN of torchvision, one of each family in timm [ARGS=--all]
	$(run) benchmarks.coverage $(ARGS)

NO_GPU := gpu-check: expected a CUDA device that PyTorch can use, got none
gpu-check: setup ## train, resume and measure on a CUDA device, compared with the CPU [ARGS]
	@$(call quote,$(VENV)/bin/python) -c 'import sys, torch; torch.cuda.is_available() or sys.exit("$(NO_GPU)")'
	$(run) pytest -m gpu -v -rs tests/test_gpu.py tests/test_measure.py tests/test_batches.py $(ARGS)

clean: ## remove .venv [VENV=folder], builds and caches; never runs/ or figures
	[ ! -e $(call quote,$(VENV))/.fredist-setup ] || rm -rf $(call quote,$(VENV))
	rm -rf build dist *.egg-info .hypothesis .pytest_cache .ruff_cache
	find benchmarks fredist tests tools -name __pycache__ -prune -exec rm -rf {} +
