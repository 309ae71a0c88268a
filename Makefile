# `make demo` and `make test` do all the set-up on a fresh machine; a second run re-uses what is there.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
SCORES := .venv/scores
ENGINES := build/tiny/manifest.json
IMAGE_ENGINES := build/diffv2iqa-tiny/manifest.json
PROMPT_ENGINES := build/aigc_vqa-tiny/manifest.json
RECIPE = --work build/weights --out build/weights/made $(if $(MEDIA),--media $(MEDIA))
SOURCES := $(shell find diffvqa_rt export kernels -name '*.py')

# What a developer runs all day: no engines are built, and no server is started.
CHECKED := $(wildcard tests/test_*.py) $(addprefix tests/,metrics models decoding capacity video/test_clock.py \
	video/test_color.py serving/test_python_backend.py serving/test_tensor_checks.py serving/test_answers.py \
	serving/test_address.py export/test_registry.py export/test_table.py docs/test_commands.py docs/test_readme.py)

.PHONY: demo check test lint docs slow soak fuzz weights engines gpu clean

# Without torch: the engines of the bundled weights are in the package.
demo: $(SCORES)
	mkdir -p build
	$(BIN)/diffvqa score examples/frog.mp4
	$(BIN)/diffvqa score --format json examples/frog.mp4 > build/demo.json
	$(BIN)/diffvqa report build/demo.json --out build/demo.html

check: lint
	$(BIN)/pytest -m "not slow and not engines" $(CHECKED)

test: lint
	$(BIN)/pytest

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python tests/docstring_starts.py

# The site of docs/ and what belongs to it, in build/site.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# What needs minutes or gigabytes: one step of the full-size network among others.
slow: $(READY)
	$(BIN)/pytest -m slow

# Five minutes of 16 clients of three metrics, and two for the comparison: build/soak.json. Not beside other work: it compares speeds.
soak: $(ENGINES) $(IMAGE_ENGINES) $(PROMPT_ENGINES)
	PYTHONPATH=tests $(BIN)/python benchmarks/soak.py --engines build/tiny --engines build/diffv2iqa-tiny \
		--engines build/aigc_vqa-tiny --out build/soak.json

# Ten thousand broken files by the decoder and by the command, requests to a real server, and bodies to the HTTP API.
fuzz: $(READY)
	PYTHONPATH=tests:export:benchmarks $(BIN)/python -P -m fuzz --out build/fuzz.json

# The bundled weights, from nothing, in hours. MEDIA is the folder of the photographs and videos that are in no package.
weights: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train]'
	$(BIN)/python -m diffvqa_rt.training.diffvqa.bundled.make_weights $(RECIPE) --until controller
	set -e; for network in tiny tiny-fast; do $(BIN)/python export/build_engines.py \
		--weights build/weights/$$network/controller.safetensors --out build/weights/engines/$$network; done
	$(BIN)/python -m diffvqa_rt.training.diffvqa.bundled.make_weights $(RECIPE) --engines build/weights/engines
	cp build/weights/made/tiny-decoder.safetensors diffvqa_rt/weights
	set -e; for network in tiny tiny-fast; do $(BIN)/python export/build_engines.py --preset $$network --share-weights \
		--weights build/weights/made/$$network.safetensors --out diffvqa_rt/weights/$$network; \
		rm -r diffvqa_rt/weights/$$network.work; done

# The engines that the package brings, made again of its weights: after a change of the export.
engines: $(READY)
	$(BIN)/python export/build_engines.py --share-weights --out diffvqa_rt/weights/tiny
	rm -r diffvqa_rt/weights/tiny.work

# What only a GPU shows, in the Python that sees it: the kernels natively, their table beside mamba-ssm and the bounds, the
# engines beside torch, and the denoising loop at full size.
gpu: export PYTHONPATH = .:kernels:export
gpu:
	mkdir -p build
	$(PYTHON) -m pytest -m gpu tests
	$(PYTHON) -m pytest benchmarks/test_selective_scan.py --benchmark-json=build/selective_scan_gpu.json
	$(PYTHON) -m pytest -m gpu benchmarks/bench_denoise_gpu.py --benchmark-json=build/denoise_gpu.json

$(ENGINES): $(READY) $(SOURCES)
	$(BIN)/python export/build_engines.py --preset tiny --out build/tiny

$(IMAGE_ENGINES): $(READY) $(SOURCES)
	$(BIN)/python export/build_engines.py --metric diffv2iqa --out build/diffv2iqa-tiny

$(PROMPT_ENGINES): $(READY) $(SOURCES)
	$(BIN)/python export/build_engines.py --metric aigc_vqa --out build/aigc_vqa-tiny

$(SCORES): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,report]'
	touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,dali,export,serve,dev,docs]'
	# Without its dependencies, which would replace NumPy: of this package only the Triton server inside is used.
	-$(BIN)/pip install --quiet --disable-pip-version-check --no-deps nvidia-pytriton==0.7.0
	# Where there are no such wheels, the tests of TensorRT skip and say so. Of TensorRT the bindings alone: its libraries are
	# not on PyPI, and the plugins' declarations need none.
	-$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tensorrt-rtx]'
	-$(BIN)/pip install --quiet --disable-pip-version-check --no-deps tensorrt-cu13-bindings==11.4.0.106
	touch $@

clean:
	rm -rf .venv build
