# `make help` lists the targets. Options are variables: make table1 PROFILE=quick MODELS=vgg19
VENV := .venv
NOTEBOOKS := table1 table2 table3 figure1 figure2 figure3 figure4 figure5 claims

run := $(VENV)/bin/python -m
option = $(if $($1),--$2 $($1))
# Joined here, so that a recipe is one command that make runs without a shell: Ctrl-C meets Python alone.
choices = $(strip $(call option,PROFILE,profile) $(call option,DATASETS,datasets) \
	$(call option,MODELS,models) $(call option,TEMPLATES,templates) \
	$(call option,SEEDS,seeds) $(if $(REMEASURE),--remeasure))
pytest = $(run) pytest $(ARGS)
# Workers share the cores better than one worker's threads do; beyond four they only pay for imports.
workers := -n auto --maxprocesses 4

# The committed notebooks are checked against the shipped records alone, not the user's own.
scratch := $(abspath $(VENV))/notebook-check

.DEFAULT_GOAL := help
.PHONY: help setup lock lint format $(NOTEBOOKS) paper data publish lab \
	test test-slow test-setup clean

help: ## list the targets
	@sed -n 's/^\([^ :]*\):.*## /\1 /p' Makefile \
		| awk '{ target = $$1; $$1 = ""; printf "  %-11s%s\n", target, $$0 }'
	@echo 'Options: PROFILE=quick DATASETS=cifar10 MODELS=vgg19,mobilenet TEMPLATES=base SEEDS=0,1'

setup: ## build .venv, once [VENV=folder PYTHON=python3 TORCH=system: use PYTHON's own torch]
	@$(or $(PYTHON),python3) tools/setup_env.py $(VENV) $(call option,TORCH,torch) \
		$(call option,PYTHON,python) $(if $(filter setup,$(MAKECMDGOALS)),,--quiet)

lock: setup ## remake requirements.lock from pyproject.toml [ARGS=--upgrade]
	$(VENV)/bin/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 \
		--generate-hashes --custom-compile-command 'make lock' --quiet -o requirements.lock $(ARGS)

lint: setup ## check format and style
	$(run) ruff format --check
	$(run) ruff check

format: setup ## format, and mend what the linter can
	$(run) ruff format
	$(run) ruff check --fix

table1: ## accuracy on CIFAR-10 and CIFAR-100
table2: ## accuracy and parameters on Tiny-ImageNet
table3: ## parameters, memory and inference time [REMEASURE=1]
figure1: ## filters per layer under the templates
figure2: ## accuracy against parameters
figure3: ## accuracy against memory [REMEASURE=1]
figure4: ## accuracy against inference time [REMEASURE=1]
figure5: ## the four base distributions
claims: ## the paper's claims, by its own numbers and by ours
$(NOTEBOOKS): setup
	$(run) fredist render $@ $(choices)

paper: $(NOTEBOOKS) ## run every notebook, with the same options; -j2 is safe

data: setup ## fetch and check the data sets [DATASETS=cifar10,cifar100]
	$(run) fredist data $(call option,DATASETS,datasets)

publish: setup ## remake the committed tables and notebooks from the shipped records
	$(run) fredist publish

lab: setup ## open the notebooks [ARGS="--no-browser --port 8889"]
	$(VENV)/bin/jupyter lab notebooks $(ARGS)

test: setup ## the quick tests, then the notebooks' checked cells [ARGS]
	OMP_NUM_THREADS=1 $(pytest) $(workers)
	FREDIST_RUNS=$(scratch)/runs FREDIST_FIGURES=$(scratch)/figures \
		$(pytest) $(workers) --dist loadfile --nbval-lax --nbval-current-env $(sort $(wildcard notebooks/*.ipynb))

test-slow: setup ## the slow tests, but for test-setup's [ARGS]
	$(pytest) -m slow --ignore tests/test_setup.py

test-setup: setup ## build an environment on this one's torch, as TORCH=system does [ARGS]
	$(pytest) -m slow tests/test_setup.py

clean: ## remove .venv, builds and caches; never runs/ or figures
	rm -rf .venv build dist *.egg-info .hypothesis .pytest_cache .ruff_cache
	find fredist tests tools -name __pycache__ -prune -exec rm -rf {} +
