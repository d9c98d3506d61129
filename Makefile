# Two commands do all the set-up: `make quickstart` and `make test`. Each makes its own .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HYBRID := $(BIN)/hybrid-ir
OUT ?= runs/quickstart
PORT ?= 8000

.PHONY: quickstart test test-long bench fuzz lint docs lock audit clean help

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /  /'

# No hub and no GPU: the encoder comes from the package index.
quickstart: $(VENV)/run ## train a released encoder, compare it with itself, index, serve and search; PORT=8000
	@$(HYBRID) serve --index $(OUT)/index --check-port serve.port=$(PORT)
	@$(HYBRID) prepare --config tune_configs/quickstart.yaml
	@$(HYBRID) train --config tune_configs/quickstart.yaml out=$(OUT)/hybrid
	@$(HYBRID) compare --encoders multilingual-e5-small,$(OUT)/hybrid --path store/atlas --out $(OUT)/compared
	@test -f $(OUT)/index/manifest.json || $(HYBRID) index --config tune_configs/quickstart.yaml \
		--checkpoint $(OUT)/hybrid/checkpoint --passages store/atlas --out $(OUT)/index
	@$(HYBRID) serve --index $(OUT)/index serve.port=$(PORT) \
		--query "What money do I need in Switzerland?" \
		--query "¿Qué idioma habla la mayoría de la gente en Brasil?" --query "墨西哥用什么钱？"

# They start first, so that neither process is left alone with one of them.
LONGEST := tests/test_sweep.py tests/test_training.py tests/test_wheel.py
test: $(VENV)/dev ## install what tests need and run all of them (or TESTS=tests/test_plan.py)
ifdef TESTS
	$(BIN)/python -m pytest $(TESTS)
else
	$(BIN)/python -m pytest -m "not alone and not long" -n 2 --dist loadfile --no-loadscope-reorder $(LONGEST) tests
	$(BIN)/python -m pytest -m "alone and not long"
	HYBRID_IR_AUTO_PRECISION=$$($(BIN)/python tests/other_precision.py) $(BIN)/python -m pytest -m "numbers and not slow" -n 2
endif

test-long: $(VENV)/dev ## the tests that take minutes each: the quickstart's ten questions, and a soak of the service
	$(BIN)/python -m pytest -m long

ROUNDS ?= 1
bench: $(VENV)/dev ## speed beside what one would use instead; XQUAD=folder of XQuAD-R ROUNDS=1 (needs wrk)
	$(BIN)/python benchmarks/speed.py --xquad $(XQUAD) --rounds $(ROUNDS) --out runs/speed

# In a folder of its own: what breaks a parser is left there as crash-*.
RUNS ?= 100000
PARSERS = words config space records parquet compressed squad mr_tydi miracl lexicon passages store_manifest \
	index_manifest search_body embeddings_body
fuzz: $(VENV)/fuzz ## make up RUNS=100000 inputs for each parser of outside input (Linux); what breaks one is in fuzz/
	@mkdir -p fuzz && cd fuzz && for parser in $(PARSERS); do \
		../$(BIN)/python ../tests/fuzz/fuzz_parsers.py $$parser -runs=$(RUNS) -verbosity=0 > $$parser.log 2>&1 \
			|| { tail -40 $$parser.log; exit 1; }; \
		echo "$$parser: $(RUNS) inputs, none breaks it"; done

lint: $(VENV)/dev ## style, types and the import contract
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --config pyproject.toml

# Material's notice about its successor would stand before every build: CONTRIBUTING.md says what is to know of it.
docs: $(VENV)/dev ## build the documentation into site/; a dead link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

lock: $(VENV)/dev ## write constraints.txt from what is installed
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' > constraints.txt

# In an environment of its own: the project does not need it. --strict, because what cannot be looked up is else skipped
# and the audit says that it found nothing.
AUDIT := $(VENV)/audit
audit: constraints.txt ## look for known weaknesses of the pinned dependencies (asks the network)
	@test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) \
		&& $(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1; }
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

clean: ## remove the environment and the quickstart's files
	rm -rf $(VENV) runs store

# Python compiles what is imported, when it is first imported; pip would compile all that it installs.
unexport PYTHONDONTWRITEBYTECODE

# torch first and pinned: a looser requirement would fetch the CUDA packages on a machine without a GPU.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hybrid-ir needs Python 3.11 or newer (set PYTHON=)")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e $(1)
	@touch $(2)
endef

$(VENV)/run: pyproject.toml constraints.txt
	$(call install,'.[bm25]',$@)

$(VENV)/dev: pyproject.toml constraints.txt
	$(call install,'.[dev]',$(VENV)/run $@)

$(VENV)/fuzz: pyproject.toml constraints.txt
	$(call install,'.[fuzz]',$(VENV)/run $(VENV)/dev $@)
