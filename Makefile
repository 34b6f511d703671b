# Few verbs: demo  test  test-clients  test-tools  lint  bench  docs  wheels  gpu-check  gpu-bench. All but the last two make .venv first if need be.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# pip compiles to bytecode one file after the other; this takes all cores. Some packages ship what is no Python.
BYTECODE := $(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true
PACKAGES := core plugins/native/cpu plugins/attention/torch plugins/attention/cpu plugins/attention/triton plugins/attention/flashinfer plugins/commands/quantize plugins/kernels/cpu plugins/kernels/triton plugins/logits_processors/no_repeat_ngram plugins/models/llama plugins/models/tiny plugins/samplers/standard plugins/quant/awq plugins/quant/compressed_tensors plugins/quant/gptq plugins/quant/int8 plugins/reasoning_parsers/think plugins/tool_parsers/json plugins/grammars/llguidance plugins/grammars/xgrammar plugins/speculators/draft plugins/speculators/ngram plugins/speculators/eagle plugins/routes/ollama server
SOURCES := $(PACKAGES:%=%/src)
TESTS := $(PACKAGES:%=%/tests) tests
NATIVE := plugins/native/cpu
PROMPT ?= def fibonacci(n):
BENCH ?=
# Suites of C++ that spreads over every core: in one process, for two would wait for each other's
# threads; and these sleep while they wait, lest anything else that runs here costs them their turn.
THREADED_TESTS := plugins/native plugins/kernels/cpu plugins/attention/cpu plugins/quant tests/test_cpu_attention_tokens.py tests/test_deterministic.py tests/test_int8.py
# Their conftest turns Triton's interpreter on, for good: no other test is to run in such a process.
TRITON_TESTS := plugins/attention/triton plugins/kernels/triton
WORKERS ?= 2
# A file's tests stay together, in their order, for they share servers and browsers. A thread for each process.
SIDE_BY_SIDE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
GPU_BENCH ?=
# Files by name: the others need what only developers have.
GPU_TESTS = $(sort $(shell grep -rl --include='test_*.py' 'pytest\.mark\.gpu' core plugins server tests))

# Hundreds of processes are started here: what one has compiled the next is to load.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-clients test-tools lint bench bench-parts docs wheels gpu-check gpu-bench clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.native  ## generate text with the bundled model
	$(BIN)/quire generate tiny "$(PROMPT)" --max-tokens 120

test: lint  ## lint, types, import rules, all tests; WORKERS=4 where there are more than two cores
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest $(THREADED_TESTS)
	$(SIDE_BY_SIDE) $(TRITON_TESTS)
	$(SIDE_BY_SIDE) $(addprefix --ignore=,$(THREADED_TESTS) $(TRITON_TESTS))

test-clients: $(VENV)/.dev  ## real clients, in environments of their own, against a live server
	$(BIN)/python -m pytest tests/clients

test-tools: $(VENV)/.dev  ## AutoAWQ, AutoGPTQ, GPTQModel and llm-compressor write checkpoints, and Quire runs them; once in a while
	$(BIN)/python -m pytest tests/writers

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers $(WORKERS) $(SOURCES) $(TESTS) $(NATIVE)/build_hook.py tools bench
	$(BIN)/lint-imports

bench: $(VENV)/.dev  ## Quire beside other engines and the machine's limit; BENCH="--peers quire,vllm --workloads ragged"
	$(BIN)/python bench/side_by_side.py $(BENCH)

bench-parts: $(VENV)/.dev  ## what single parts cost: start-up, packed linears, attention, the HTTP layer
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/linear.py
	$(BIN)/python bench/attention.py
	$(BIN)/python bench/http_layer.py

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

wheels: $(VENV)/.dev  ## all packages, as dist/*.whl
	rm -rf dist
	$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir dist $(PACKAGES:%=./%)

# In the environment of PYTHON as it is: PyTorch with CUDA, Triton, transformers, pytest, and Quire's wheels with what
# they need. What libraries of other versions than the tested ones warn of is shown, and fails nothing.
gpu-check:  ## all tests that want a GPU: kernels, graphs, the engine
	$(PYTHON) -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "gpu-check needs a CUDA GPU, and PyTorch sees none")'
	$(PYTHON) -m pytest -m gpu -W default $(GPU_TESTS)

# In the environment of PYTHON, too; without pytest, with transformers.
gpu-bench:  ## what is reached on a GPU, beside its limits; GPU_BENCH="--only decode,attention --json FILE"
	$(PYTHON) bench/gpu.py $(GPU_BENCH)

clean:
	rm -rf dist $(VENV) .venv-clients site

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.packages: $(VENV)/bin/python constraints.txt $(PACKAGES:%=%/pyproject.toml)
	$(BIN)/python tools/install_torch.py
	$(PIP) --no-compile 'hatchling>=1.27' editables
	$(PIP) --no-compile --no-build-isolation $(PACKAGES:%=--editable ./%)
	$(BYTECODE)
	touch $@

# Installing compiles the C++; this compiles it anew where it was changed since. Without a compiler Quire is slower and works.
$(VENV)/.native: $(VENV)/.packages $(wildcard $(NATIVE)/src/quire_native_cpu/csrc/*) $(NATIVE)/src/quire_native_cpu/compile.py
	-$(BIN)/python -m quire_native_cpu
	touch $@

$(VENV)/.dev: $(VENV)/.native requirements-dev.txt
	$(PIP) --no-compile --requirement requirements-dev.txt
	$(BYTECODE)
	touch $@
