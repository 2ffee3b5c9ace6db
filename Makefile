# `make demo` and `make test` each work alone on a fresh machine: both install first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
BIN := .venv/bin
AUDIT := .venv/audit

JOB ?= mscan_fedavg
SITES ?= 4
THREADS ?= $(SITES)
PATIENTS ?= 6
RUN ?= runs/$(JOB)
POC ?= runs/poc
PROJECT ?= poc/project.yml
POC_JOB ?= jobs/mscan_fedavg_he_packed
STUDY ?= training
DATA ?= data
REAL_DATA ?= ../shared/data
include poc/flare.env

.PHONY: help setup setup-locked lock sbom audit demo poc study test test-quick check sim jobs clean bench bench-start bench-step bench-data bench-optimisations \
	bench-federation bench-growth bench-provisioned bench-scale bench-inference bench-prepare bench-he bench-mrcm bench-real
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-20s %s\n", $$1, $$2}'

setup: .venv/installed  ## make .venv and install everything into it

.venv/installed: requirements.txt pyproject.toml
	python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

setup-locked:  ## the same with every file checked by its hash (Linux x86-64, Python 3.11)
	python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch .venv/installed

lock: setup  ## write requirements.lock from what is installed
	$(BIN)/python tools/lock_requirements.py requirements.lock

$(AUDIT)/installed: Makefile
	python3 -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet cyclonedx-bom==7.5.0 pip-audit==2.10.1
	touch $@

sbom: setup $(AUDIT)/installed  ## bill of materials of .venv (CycloneDX) in runs/sbom.json
	mkdir -p runs
	$(AUDIT)/bin/cyclonedx-py environment --no-validate --output-file runs/sbom.json $(BIN)/python

# Skipped, and said so, where neither the tool nor a database of vulnerabilities can be reached.
audit: setup  ## known vulnerabilities of the locked packages
	mkdir -p runs; rm -f runs/audit.json; \
	if ! $(MAKE) --no-print-directory -s $(AUDIT)/installed; then echo "pip-audit: SKIPPED, it cannot be installed here"; \
	elif timeout 300 $(AUDIT)/bin/pip-audit --disable-pip --no-deps --progress-spinner off -r requirements.lock \
		-f json -o runs/audit.json; then echo "pip-audit: no known vulnerability"; \
	elif [ -s runs/audit.json ]; then cat runs/audit.json; echo "pip-audit: vulnerabilities, see above"; exit 1; \
	else echo "pip-audit: SKIPPED, no database of vulnerabilities can be reached"; fi

demo: setup  ## simulated hospitals, four-site federation; table, picture, page and model in runs/demo
	$(BIN)/fedmr demo-data data --sites $(SITES) --patients $(PATIENTS)
	$(MAKE) --no-print-directory sim RUN=runs/demo
	$(BIN)/fedmr export runs/demo --to pt --out runs/demo/model.pt
	@echo "runs/demo/model.pt has seen simulated heads only. On a real scan use the model that comes with FedMR:"
	@echo "  $(BIN)/fedmr infer mscan-x2 SCAN.nii.gz RESULT.nii.gz    # also DICOM: SERIES_FOLDER OUT_FOLDER"

sim: setup  ## run JOB on the sites in data/ (or FEDMR_DATA_ROOT): table and picture in RUN
	test -f jobs/$(JOB)/meta.conf || { echo "jobs/ holds no $(JOB); it has: $$(ls jobs | xargs)"; exit 1; }
	if [[ $(JOB) == *_central ]]; then \
		$(BIN)/fedmr pool "$${FEDMR_DATA_ROOT:-$(DATA)}" --out runs/pooled --force; \
		export FEDMR_DATA_ROOT=$(CURDIR)/runs/pooled; sites="-c pooled"; \
	else sites="-n $(SITES) -t $(THREADS)"; fi; \
	$(BIN)/nvflare simulator jobs/$(JOB) -w $(RUN) $$sites -l app_configs/log_config.json
	$(BIN)/fedmr report $(RUN) --json $(RUN)/figures.json --picture $(RUN)/comparison.png --force

poc: setup  ## the same over TLS: provision, start, submit POC_JOB, collect, report, stop
	test -d $(DATA) || $(BIN)/fedmr demo-data $(DATA) --sites $(SITES) --patients $(PATIENTS)
	$(BIN)/fedmr poc provision --project $(PROJECT) --workspace $(POC) --data $(DATA)
	trap '$(BIN)/fedmr poc stop --workspace $(POC)' EXIT; \
	$(BIN)/fedmr poc start --workspace $(POC); \
	$(BIN)/fedmr poc submit $(POC_JOB) --workspace $(POC) --wait; \
	$(BIN)/fedmr report "$$($(BIN)/fedmr poc collect --workspace $(POC) --out $(POC)/collected)"

study: setup  ## run benchmarks/studies/STUDY.yaml on DATA, resumed if interrupted; tables in runs/studies/STUDY/report
	$(BIN)/fedmr study benchmarks/studies/$(STUDY).yaml --data $(DATA) --out runs/studies/$(STUDY)
	$(BIN)/fedmr report runs/studies/$(STUDY)

test: setup  ## unit tests, then whole federations in the simulator
	$(BIN)/pytest -m "not e2e" -n 2 --dist loadfile --durations=5
	$(BIN)/pytest -m e2e -n 3 --dist loadfile --durations=5

test-quick: setup  ## unit tests of every day: neither federations nor what only a release needs
	$(BIN)/pytest -m "not e2e and not release" -n 2 --dist loadfile

check: setup  ## lint, types, the job folders, and known vulnerabilities
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/fedmr jobs check
	$(MAKE) --no-print-directory audit

jobs: setup  ## render jobs/ from app_configs/ and check them
	$(BIN)/fedmr jobs render
	$(BIN)/fedmr jobs check

bench: setup  ## all benchmarks; tables in benchmarks/results
	for part in start step data optimisations federation growth provisioned scale inference prepare he mrcm; do \
		$(MAKE) --no-print-directory bench-$$part; \
	done
	$(MAKE) --no-print-directory bench-real JOB=mscan_fedavg
	$(MAKE) --no-print-directory bench-real JOB=mscan_fedavg_x4

bench-start: setup  ## CPU time of `fedmr --help` and of a wrong path
	$(BIN)/python benchmarks/cli_start.py

bench-step: setup  ## a training step of MSCAN and of published networks, by phase
	$(BIN)/python benchmarks/training_step.py

bench-data: setup  ## patches per second, against MONAI's transforms
	$(BIN)/python benchmarks/data_sampler.py

bench-optimisations: setup  ## what each optimisation saves
	$(BIN)/python benchmarks/optimisations.py

bench-federation: setup  ## the demo job against one process that takes the same steps
	test -d data || $(BIN)/fedmr demo-data data --sites $(SITES) --patients $(PATIENTS)
	$(BIN)/python benchmarks/federation.py

bench-growth: setup  ## time and memory by sites, rounds, weights and image size
	$(BIN)/python benchmarks/growth.py

bench-provisioned: setup  ## memory of the server with few and many sites, over TLS
	$(BIN)/python benchmarks/provisioned.py

bench-scale: setup  ## the server's part of a round: 1,000 sites, 100 million weights
	$(BIN)/python benchmarks/scale.py

bench-inference: setup  ## seconds that `fedmr infer` needs for a volume
	$(BIN)/python benchmarks/inference.py

bench-prepare: setup  ## seconds that `fedmr prepare` needs for a volume
	$(BIN)/python benchmarks/prepare.py

bench-he: setup  ## bytes, seconds and memory of encrypted aggregation
	$(BIN)/python benchmarks/he.py

bench-mrcm: setup  ## a step and the bytes of FL-MRCM compared with FL-MR
	$(BIN)/python benchmarks/cross_site_modelling.py --paper

bench-real: setup  ## train JOB on the real scans in REAL_DATA, tables into benchmarks/results
	$(BIN)/python benchmarks/real_scans.py $(REAL_DATA) --job $(JOB)

clean:  ## remove what the targets made, but not .venv and data/
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
