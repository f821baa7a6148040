# Everything a newcomer needs: `make demo` (the whole lineage and scenes from photos), `make test`, `make ui`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK := 1
SEED ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup demo test ui tiny-base evaluate-tiny lint

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/.ready .cache/packaged.ready ## install the pinned packages into .venv, fetch the sample clips

.venv/.ready: pyproject.toml infra/constraints.txt
	@echo "installing the pinned packages into .venv: minutes the first time" >&2
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("more4d needs Python 3.11 or newer")'
	@$(PYTHON) -m venv .venv
	@pip install --quiet --disable-pip-version-check --constraint infra/constraints.txt --editable '.[dev]' >&2
	@touch $@

.cache/packaged.ready: .venv/.ready datasets/packaged.toml
	@python -m more4d.data.packaged --out .cache/packaged >&2
	@touch $@

demo: setup ## the whole lineage with preset tiny, then scenes from real photos
	dvc repro
	python -m more4d.report --root .
	@echo
	@echo "Scenes, gallery, curves and evaluation: $(CURDIR)/results/index.html (open it in a browser)"
	@echo "A scene of your own:  .venv/bin/more4d generate --image PHOTO --prompt 'a cat walks to the left' --camera circle_left --out my-scene"
	@echo "The lineage in a UI:  make ui"

lint: setup
	ruff check .
	ruff format --check .
	pyright
	lint-imports

test: setup lint ## linters, types, import rules, tests
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile

ui: setup ## the Dagster UI on http://127.0.0.1:3000
	mkdir -p .dagster
	cp infra/dagster.yaml .dagster/dagster.yaml
	DAGSTER_HOME=$(CURDIR)/.dagster dagster dev -h 127.0.0.1 -p 3000 -m more4d_orchestration.definitions

tiny-base: setup ## train models/tiny-base from nothing
	cd infra/tiny-base && dvc repro

evaluate-tiny: setup ## evaluate the shipped base on 256 fresh scenes: make evaluate-tiny SEED=7 [OUT=DIR]
	@python -m more4d.evaluation.tiny --seed $(SEED) $(if $(OUT),--out $(OUT))
