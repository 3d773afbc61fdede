# make demo        everything on loopback: a scan in, its result beside it, the address to look at
#   STUDY=path     your own folder of DICOM files instead of the phantom
#   ONCE=1         stop after the results; exit code 0 only if they are in the archive and no job failed
# make test        every test that needs no GPU
# make bench       the benchmarks: a table, and benchmarks/results.json
# make chaos       the fault test in its long form: FAULTS=300 in each of two runs, SEED= to repeat one
# make fuzz        mutated series, as many as wanted: CASES=20000, SEED= to repeat a run
# make zoo         what is too large for make test: bundles of the Model Zoo, a package with PyTorch; minutes each
# make load        ten minutes of a hospital's traffic; MINUTES=10
# make throughput  studies an hour with 1, 2 and 4 workers, and memory over 300 studies
# make train       the demonstration network anew, measured: see docs/models.md
# make orthanc-1.12   Debian 13's Orthanc beside the system's, for the tests; needs debootstrap and root
# make engines     Docker and Podman beside the system's, for the tests; they are tried by root only
# make compose     docker/compose.yaml started by Docker, as the guides say; slow, its images 12 GB, root only
# make kubernetes  kubernetes/ applied to a Kubernetes that is built for it, as the guide says; slow, its images 14 GB, root only
# make install     only what the others need
# make clean       remove what make installed here (.venv, .cache)

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install system browser orthanc-1.12 engines compose kubernetes ohif demo test lint types check bench chaos fuzz zoo load throughput train clean

# Without the viewer the rest works, so what keeps it away is said and not fatal.
install: $(INSTALLED)
	@$(BIN)/python scripts/fetch_ohif.py || true

# The system's packages: Orthanc and its plugins, dciodvfy, npm. What can not be installed is named, not fatal.
system:
	@scripts/install_system.sh

# What only the tests need too: Chromium, which is larger than all the others, PostgreSQL, DCMTK, debootstrap.
browser:
	@scripts/install_system.sh test

orthanc-1.12:
	@scripts/fetch_orthanc_1_12.sh

engines:
	@scripts/fetch_engines.sh

compose: browser install engines
	@scripts/fetch_compose.sh
	$(BIN)/python -m pytest tests/integration/test_compose_up.py -q -m slow

kubernetes: browser install engines
	@scripts/fetch_compose.sh
	@scripts/fetch_kubernetes.sh
	$(BIN)/python -m pytest tests/integration/test_kubernetes_up.py -q -m slow

$(INSTALLED): requirements.lock pyproject.toml scripts/install_python.sh | system
	@scripts/install_python.sh $(VENV)
	@touch $@

ohif: $(INSTALLED)
	@$(BIN)/python scripts/fetch_ohif.py

demo: install
	@$(BIN)/isocenter demo $(if $(STUDY),--study "$(STUDY)") $(if $(ONCE),--once)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(INSTALLED)
	$(BIN)/mypy
	MYPYPATH=orthanc $(BIN)/mypy --strict orthanc/nudger.py orthanc/isocenter_plugin.py
	MYPYPATH=src:operators $(BIN)/mypy apps/ct_lung_density/app.py
	MYPYPATH=src:operators $(BIN)/mypy apps/thorax_organs/app.py
	MYPYPATH=src:operators $(BIN)/mypy src/isocenter/app_template/app.py
	MYPYPATH=src:operators:triton_models/monai_bundle/1 $(BIN)/mypy training/thorax_organs.py
	MYPYPATH=triton_models/ct_lung_density/1 $(BIN)/mypy -p lung_density
	MYPYPATH=triton_models/monai_bundle/1 $(BIN)/mypy -p bundle_engine

check: lint types

# Compiled first: hundreds of processes are started, and where Python may not keep it each would do that anew.
# Where Orthanc 1.12, Docker, Podman and Compose can not be had, that is said, and the tests of them are skipped.
test: browser install check
	@scripts/fetch_orthanc_1_12.sh || true
	@scripts/fetch_engines.sh || true
	@scripts/fetch_compose.sh || true
	@$(BIN)/python -m compileall -q src operators apps triton_models
	$(BIN)/python -m pytest tests/unit -n 2 -q
	$(BIN)/python -m pytest tests/integration tests/fuzz tests/e2e -q -n 3 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest tests/chaos -q -n 2

bench: install
	@$(BIN)/python benchmarks

# PostgreSQL comes with `browser`.
chaos: browser install
	@PYTHONPATH=tests $(BIN)/python -m chaos --faults $(or $(FAULTS),300) $(if $(SEED),--seed $(SEED))

fuzz: install
	@PYTHONPATH=tests $(BIN)/python -m fuzz --cases $(or $(CASES),20000) $(if $(SEED),--seed $(SEED))

zoo: install
	$(BIN)/python -m pytest tests/integration/test_model_zoo.py tests/integration/test_models.py \
	  tests/integration/test_map_packages.py -q -m slow

load: install
	@PYTHONPATH=tests $(BIN)/python benchmarks/load.py --minutes $(or $(MINUTES),10)

# PostgreSQL comes with `browser`.
throughput: browser install
	@PYTHONPATH=tests $(BIN)/python benchmarks/throughput.py

train: install
	@$(BIN)/python -W ignore training/thorax_organs.py

clean:
	rm -rf $(VENV) .cache
