# Two commands: `make demo` installs everything and runs a real search; `make test` runs the tests.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

CUDA_VENV ?= .venv-cuda

.PHONY: demo docs test test-whole test-oldest test-levels null-gpu null-gpu-full null-gpu-predictions lint slow frameworks export-check gpu gpu-suite benchmarks clean

# Real text of many lengths, and a limit that some configurations exceed: under three minutes.
demo: $(VENV)/installed
	$(BIN)/autofit examples/small-llama --effective-batch 16 --data examples/genesis.txt --memory-limit 220MiB --budget 150s

# Two at once, one thread each: what is timed is a ratio, and threads that wait for a busy core wait actively.
test: $(VENV)/installed lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow and not whole" -n 2 --dist worksteal

# Whole searches and programs, half a minute and more each: CI runs them, too.
test-whole: $(VENV)/installed .exports/deepspeed/installed
	AUTOFIT_DEEPSPEED=.exports/deepspeed OMP_NUM_THREADS=1 $(BIN)/pytest -m "whole and not slow" -n 2 --dist worksteal

# What runs kernels, as older processors would run it: which kernels torch and oneDNN choose depends on the processor.
LEVELS ?= AVX2:avx2 AVX512_CORE:avx512 AVX512_CORE_BF16:avx512
test-levels: $(VENV)/installed
	for level in $(LEVELS); do \
	  echo "oneDNN up to $${level%:*}, torch's own kernels up to $${level#*:}"; \
	  ONEDNN_MAX_CPU_ISA=$${level%:*} ATEN_CPU_CAPABILITY=$${level#*:} $(BIN)/pytest -m "not slow" \
	    tests/trial tests/worker tests/runtime tests/benchmarks tests/test_end_to_end.py tests/export || exit 1; \
	done

# CUDA's code on a card whose kernels do nothing: see tests/null_gpu/README.md.
null-gpu: $(CUDA_VENV)/installed .exports/deepspeed/installed
	AUTOFIT_DEEPSPEED=.exports/deepspeed NULL_GPU_REQUIRED=1 OMP_NUM_THREADS=1 $(CUDA_VENV)/bin/pytest tests/null_gpu tests/worker/tracer/test_liger.py -m "not slow" -n 2 --dist worksteal

null-gpu-full: $(CUDA_VENV)/installed .exports/deepspeed/installed
	AUTOFIT_DEEPSPEED=.exports/deepspeed NULL_GPU_REQUIRED=1 $(CUDA_VENV)/bin/pytest tests/null_gpu tests/worker/tracer/test_liger.py

# What the predictor says against what torch's allocator does, written to benchmarks/results.
null-gpu-predictions: $(CUDA_VENV)/installed
	$(CUDA_VENV)/bin/python -m benchmarks.memory_prediction null_gpu

# 6 GB, in about two minutes: an environment of its own, so that everything else runs with the small build of torch.
$(CUDA_VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(CUDA_VENV)
	$(CUDA_VENV)/bin/pip install --quiet torch==2.14.1
	grep -v '^torch==' constraints.txt > $(CUDA_VENV)/constraints.txt
	$(CUDA_VENV)/bin/pip install --quiet --constraint $(CUDA_VENV)/constraints.txt --editable '.[dev]' liger-kernel
	touch $@

# The oldest of everything that pyproject.toml allows, together; models by name need a newer transformers than programs.
test-oldest: .venv-oldest/installed
	OMP_NUM_THREADS=1 .venv-oldest/bin/pytest -m "not slow" -n 2 --dist worksteal

.venv-oldest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet uv
	echo 'transformers>=5.17' > .venv-oldest/of-models-by-name.txt
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct \
	  --constraint .venv-oldest/of-models-by-name.txt --editable '.[dev]'
	touch $@

# Programs of other people's that end in a Trainer, with the releases of transformers that they ask for: 9 GB, half an hour.
frameworks: $(VENV)/installed .venv-axolotl/installed .venv-llama-factory/installed
	AUTOFIT_ENVIRONMENT_AXOLOTL=.venv-axolotl AUTOFIT_ENVIRONMENT_LLAMA_FACTORY=.venv-llama-factory \
	  $(BIN)/pytest tests/test_frameworks.py

# Files for trainers that tests read by the trainers' own code, without most of what these would pin: four minutes, 700 MB.
export-check: $(VENV)/installed .exports/installed .exports/deepspeed/installed
	AUTOFIT_AXOLOTL=.exports/axolotl AUTOFIT_LLAMA_FACTORY=.exports/llama-factory AUTOFIT_MS_SWIFT=.exports/ms-swift \
	AUTOFIT_UNSLOTH=.exports/unsloth AUTOFIT_DEEPSPEED=.exports/deepspeed \
	  $(BIN)/pytest tests/export/test_other_trainers.py
	PYTHONPATH=.exports/deepspeed $(BIN)/pytest tests/export/test_formats.py tests/export/test_launchers.py -k zero

ALONE = --quiet --no-deps --target
.exports/installed: $(VENV)/installed
	$(BIN)/pip install $(ALONE) .exports/axolotl --ignore-requires-python axolotl==0.21.0 pillow addict
	$(BIN)/pip install $(ALONE) .exports/llama-factory llamafactory==0.9.5 omegaconf antlr4-python3-runtime==4.9.3 liger-kernel
	$(BIN)/pip install $(ALONE) .exports/ms-swift ms-swift==4.6.0 attrdict binpacking dacite json-repair liger-kernel
	$(BIN)/pip install --quiet --constraint constraints.txt --target .exports/ms-swift \
	  modelscope addict aiohttp openai fastapi uvicorn tiktoken matplotlib zstandard simplejson sortedcontainers
	$(BIN)/pip install $(ALONE) .exports/unsloth unsloth==2026.10.9
	$(BIN)/pip install --quiet --target .exports/unsloth pydantic
	touch $@

# In a folder of its own: where it is installed, accelerate and transformers import it. Half a minute.
.exports/deepspeed/installed: $(VENV)/installed
	$(BIN)/pip install --quiet wheel ninja
	DS_BUILD_OPS=0 $(BIN)/pip install $(ALONE) .exports/deepspeed --no-build-isolation deepspeed==0.19.8 hjson einops msgpack \
	  py-cpuinfo
	$(BIN)/pip install --quiet --target .exports/deepspeed pydantic
	touch $@

.venv-axolotl/installed: pyproject.toml
	$(PYTHON) -m venv .venv-axolotl
	.venv-axolotl/bin/pip install --quiet torch==2.13.0 axolotl==0.19.0 --editable .
	touch $@

# Its torchvision and torchaudio do not load beside torch's CPU build. Text needs neither, but for the import of one.
.venv-llama-factory/installed: pyproject.toml
	$(PYTHON) -m venv .venv-llama-factory
	.venv-llama-factory/bin/pip install --quiet torch==2.13.0 llamafactory==0.9.5 --editable .
	.venv-llama-factory/bin/pip uninstall --quiet --yes torchvision torchaudio
	touch $$(.venv-llama-factory/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/torchaudio.py
	touch $@

# The documentation as a site in build/site; a link that leads nowhere ends it.
docs: .venv-docs/installed
	.venv-docs/bin/mkdocs build --strict

.venv-docs/installed: mkdocs.yml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet mkdocs-material==9.8.2
	touch $@

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Minutes each: exhaustive comparisons with real trials.
slow: $(VENV)/installed
	$(BIN)/pytest -m slow

# Skipped, with the reason, where there is no CUDA device.
gpu: $(VENV)/installed
	$(BIN)/pytest -m gpu

# Everything that is claimed about a GPU, measured on the first one; goes on where an earlier call stopped.
gpu-suite: $(VENV)/installed
	$(BIN)/python -m benchmarks.gpu

benchmarks: $(VENV)/installed
	$(BIN)/python -m benchmarks.trial_overhead

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(CUDA_VENV) .venv-docs .exports .venv-axolotl .venv-llama-factory build dist *.egg-info
