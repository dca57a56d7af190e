# `make reproduce` and `make test` need only Python 3.11 or later, make and git. Both are no-ops where nothing changed.

VENV := .venv
PYTHON := $(VENV)/bin/python
UV := $(VENV)/bin/uv
LOCKS := containers/locks
AUDIT := build/audit
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

# An environment holds its own path: where the folder was moved, it is made anew. One that is a link is left alone.
PLACE := $(VENV)/.place
MOVED := $(if $(findstring n,$(firstword -$(MAKEFLAGS))),,$(shell [ -e $(PLACE) ] && [ ! -L $(VENV) ] && [ "$$(cat $(PLACE))" != "$(CURDIR)" ] && rm -rf $(VENV) && echo yes))
ifeq ($(MOVED),yes)
$(info the project lies elsewhere now: making its environment anew)
endif

# What a person has set for other projects: packages that are not locked, and other places to install to. Where packages come from stays.
export PYTHONNOUSERSITE := 1
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONUSERBASE PYTHONOPTIMIZE
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_CONSTRAINT PIP_REQUIREMENT PIP_REQUIRE_VIRTUALENV PIP_NO_DEPS PIP_PRE PIP_NO_BINARY PIP_PYTHON
unexport UV_PYTHON UV_TARGET UV_PREFIX UV_SYSTEM_PYTHON UV_PROJECT_ENVIRONMENT UV_CONSTRAINT UV_OVERRIDE UV_PRERELEASE UV_RESOLUTION UV_NO_BINARY
unexport GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY

# The CPU build of torch is taken where pip is told of a place that has it; uv knows only its own variable.
export UV_FIND_LINKS ?= $(or $(PIP_FIND_LINKS),$(shell python3 -m pip config get global.find-links 2>/dev/null))
ACCELERATOR ?= $(if $(shell command -v nvidia-smi 2>/dev/null),cuda,cpu)

export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := true
# Without bytecode every job would compile its libraries again, which costs more than many jobs.
unexport PYTHONDONTWRITEBYTECODE

CODE ?=

.PHONY: reproduce study pages ablation-pages site test lint format lock mlflow-ui acceptance clean distclean images image-cpu image-cuda resolve-images standin standin-image containers-check lock-check audit vulnerabilities

reproduce: $(VENV)/.ok-run
	@m2mkd reproduce$(if $(SCALE),$(error the study of a scale is: make study SCALE=$(SCALE))) $(if $(CODE),--code $(CODE))

study: $(VENV)/.ok-run
	@m2mkd reproduce --scale $(or $(SCALE),$(error of which scale of config/scales? make study SCALE=tiny-imagenet-100)) $(if $(CODE),--code $(CODE))

# What the pages of this project say of the small study: its board, its picture, and the sentences that follow from the board.
pages: reproduce
	mkdir -p docs/studies/small
	cp results/small/tables/claims.json docs/studies/small/
	cp results/small/overview.png docs/small-study.png
	m2mkd sentences README.md docs/results.md

# The table of ablations of the small study in its page: another hour of two cores.
ablation-pages: $(VENV)/.ok-run
	snakemake --cores all ablations --config scale=small
	mkdir -p docs/studies/small
	cp results/small/ablations/tables/ablations.md docs/studies/small/
	m2mkd sentences docs/how-to/ablations.md

# The documentation as pages that are opened as files: build/site/index.html. A warning fails it.
site: $(VENV)/.ok-dev
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

test: $(VENV)/.ok-dev $(AUDIT)/.ok
	pytest -q -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST)

lint: $(VENV)/.ok-dev
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	snakemake --lint
	mypy
	deptry .
	m2mkd config export --check

format: $(VENV)/.ok-dev
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

mlflow-ui: $(VENV)/.ok-run
	@m2mkd mlflow-ui --port $(or $(PORT),5000)

# The small study undisturbed, through kills, and in the image.
acceptance: standin-image $(AUDIT)/.ok
	$(WITH_ENGINE) pytest -q -m slow $(PYTEST)

# What can be made again without training. What Snakemake keeps of an object storage are results.
clean:
	rm -rf $(filter-out .snakemake/storage,$(wildcard .snakemake/*)) results/*/logs build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(wildcard m2mkd tests workflow containers benchmarks) -name __pycache__ -prune -exec rm -rf {} +

# Finished runs, checkpoints of interrupted ones, prepared data sets, and the environment too.
TRAINED = $(wildcard $(VENV) data/packed results/*/runs results/*/work)

distclean:
	$(if $(TRAINED),@du -shc $(TRAINED))
	@[ "$(CONFIRM)" = yes ] || { [ -t 0 ] && printf 'Delete all of it, for every scale? Runs have to be trained again. (yes/no) ' && \
	  read answer && [ "$$answer" = yes ]; } || { echo "nothing was deleted; 'make distclean CONFIRM=yes' deletes it"; exit 1; }
	@$(MAKE) --no-print-directory clean
	rm -rf $(TRAINED)

# --- images: docs/how-to/containers.md ---------------------------------------------------------------------------------

# What `make standin` made; without it, what the machine has.
STANDIN := build/standin
WITH_ENGINE = if [ -e $(STANDIN)/env.sh ]; then . $(STANDIN)/env.sh; fi;

images: image-cpu image-cuda

image-cpu image-cuda: image-%: $(VENV)/.ok-run
	$(WITH_ENGINE) $(PYTHON) containers/build.py $*

resolve-images: $(VENV)/.ok-run
	$(WITH_ENGINE) $(PYTHON) containers/build.py resolve

standin:
	containers/standin/setup.sh $(STANDIN)

# The image, from a stand-in for its base on a Debian machine that has neither engine nor registry.
standin-image: $(VENV)/.ok-dev standin
	@$(MAKE) --no-print-directory image-cpu

# It, and in it the whole workflow at scale smoke, and that of the detector.
containers-check: standin-image
	$(WITH_ENGINE) M2MKD_REQUIRE=all pytest -q -m "container and not slow" --durations 8 $(PYTEST) tests/workflow/test_containers.py
	$(WITH_ENGINE) M2MKD_REQUIRE=all pytest -q -m container $(PYTEST) tests/workflow/test_coco.py

$(AUDIT)/.ok: $(LOCKS)/audit.txt | $(UV)
	python3 -m venv --without-pip $(AUDIT)
	$(UV) pip install -q --python $(AUDIT)/bin/python --require-hashes -r $(LOCKS)/audit.txt
	@touch $@

# Rules of Dockerfiles and shell scripts, secrets, licences. Digests, of which the project is full, are no secrets.
audit: $(AUDIT)/.ok $(VENV)/.ok-run
	$(AUDIT)/bin/hadolint containers/Dockerfile
	$(AUDIT)/bin/shellcheck reproduce.sh containers/install.sh containers/standin/*.sh .ci/run workflow/envs/*.sh
	git ls-files --cached --others --exclude-standard | grep -v '^$(LOCKS)/' | \
	  xargs $(AUDIT)/bin/detect-secrets-hook --disable-plugin HexHighEntropyString --exclude-lines '\.example|user:secret@|M2MKD_DB_PASSWORD'
	$(AUDIT)/bin/cyclonedx-py environment --of JSON -o $(AUDIT)/sbom.cdx.json $(PYTHON)
	$(PYTHON) containers/licences.py $(AUDIT)/sbom.cdx.json containers/licences.txt > $(AUDIT)/licences.tsv

# Known vulnerabilities of what is locked, where the advisory service answers.
vulnerabilities: $(AUDIT)/.ok
	$(PYTHON) containers/vulnerabilities.py $(AUDIT)/bin/pip-audit $(LOCKS)/run-cuda.txt

# --- environment ------------------------------------------------------------------------------------------------------

$(UV): $(LOCKS)/uv.txt
	python3 -m venv $(VENV)
	@echo "$(CURDIR)" > $(PLACE)
	$(PYTHON) -m pip install -q --disable-pip-version-check --require-hashes -r $(LOCKS)/uv.txt
	@touch $@

# The lock for CUDA serves on a CPU too, where the small build of torch cannot be had.
$(VENV)/.ok-%: $(LOCKS)/%-cpu.txt $(LOCKS)/%-cuda.txt pyproject.toml | $(UV)
	@echo "installing the locked packages of $(LOCKS)/$*-$(ACCELERATOR).txt into $(VENV): some minutes, 2.2 GB with the CPU build of torch, more with CUDA"
	@$(UV) pip install -q --python $(PYTHON) --require-hashes -r $(LOCKS)/$*-$(ACCELERATOR).txt || \
	  { [ $(ACCELERATOR) = cpu ] && echo "no CPU build of torch for this Python here: installing the CUDA build" && \
	    $(UV) pip install -q --python $(PYTHON) --require-hashes -r $(LOCKS)/$*-cuda.txt; }
	@$(UV) pip install -q --python $(PYTHON) --no-deps --no-build-isolation -e .
	@touch $@

# What tests need contains what runs need.
$(VENV)/.ok-dev: $(VENV)/.ok-run

COMPILE = $(UV) pip compile -q --no-header --no-annotate --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28

# Runs take the versions that tests have, so that what was tested is what runs.
lock: | $(UV)
	$(COMPILE) pyproject.toml $(LOCKS)/build.in --extra dev -o $(LOCKS)/dev-cpu.txt
	$(COMPILE) pyproject.toml $(LOCKS)/build.in --extra pipeline -c $(LOCKS)/dev-cpu.txt -o $(LOCKS)/run-cpu.txt
	UV_FIND_LINKS= $(COMPILE) pyproject.toml $(LOCKS)/build.in --extra dev --extra gpu -o $(LOCKS)/dev-cuda.txt
	UV_FIND_LINKS= $(COMPILE) pyproject.toml $(LOCKS)/build.in --extra pipeline --extra gpu -c $(LOCKS)/dev-cuda.txt -o $(LOCKS)/run-cuda.txt
	$(COMPILE) $(LOCKS)/audit.in -o $(LOCKS)/audit.txt
	$(COMPILE) $(LOCKS)/sbom.in -c $(LOCKS)/audit.txt -o $(LOCKS)/sbom.txt

# Locking again changes nothing as long as pyproject.toml and the locks agree.
lock-check: | $(UV)
	rm -rf build/locks && mkdir -p build && cp -a $(LOCKS) build/locks
	@$(MAKE) --no-print-directory lock LOCKS=build/locks
	diff -r $(LOCKS) build/locks
