"""How much of the machine each stage uses: its arithmetic and its bytes beside what this machine can do at most.

The ceilings are measured in turns with every row: one large matrix product with all threads, and one large copy, too
large for a cache. `arithmetic` says what of a stage counts. A row's `speedup_over_matrix_product` is its FLOP/s over
the product's, which is its share. On a CPU that is `tiny` in float32; on a GPU `sd21` in bfloat16, eager torch's
(`bench_denoise_gpu` has the engines).

    pytest benchmarks/bench_roofline.py --benchmark-only
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from arithmetic import Arithmetic, stage_arithmetic
from ceilings import COPY, PRODUCT, Ceilings, time_with_shares, waited_for
from diffvqa_export.diffvqa.stages import STAGES
from diffvqa_export.precision import write_precision
from providers import BASELINE
from torch import Tensor
from turns import Run

from diffvqa_rt.engines import available_cpus
from diffvqa_rt.metrics.diffvqa.config import VIEWS
from diffvqa_rt.metrics.diffvqa.engines import engine_specs
from diffvqa_rt.metrics.diffvqa.presets import SD21, TINY
from diffvqa_rt.models.diffvqa.network import DiffVQA, random_network
from diffvqa_rt.models.diffvqa.stages import stage_modules

ROUNDS = 3
PROVIDERS = ("onnxruntime", BASELINE)
TOLERANCE = 1e-3

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture(scope="module")
def cpu() -> Ceilings:
    torch.set_num_threads(available_cpus())
    # 1 GiB read and written: a server's cache may hold hundreds of MB.
    return Ceilings.of("cpu", torch.float32, side=2048, copied_bytes=2**29)


@pytest.fixture(scope="module")
def gpu() -> Ceilings:
    return Ceilings.of("cuda", torch.bfloat16, side=8192, copied_bytes=2**32)


@pytest.fixture(scope="module")
def tiny() -> dict[str, Arithmetic]:
    return stage_arithmetic(TINY)


def time_stage(benchmark, time_in_turns, run: Run, work: Arithmetic, ceilings: Ceilings) -> None:
    """A stage's row: its ratio over the matrix product is that of their FLOP/s."""
    time_with_shares(benchmark, time_in_turns, run, {}, work, ceilings, ROUNDS)
    extra = benchmark.extra_info
    if benchmark.enabled:
        extra[f"speedup_over_{PRODUCT}"] = extra[f"share_of_{PRODUCT}"]


def time_ceiling(benchmark, time_in_turns, ceilings: Ceilings, name: str) -> None:
    """A ceiling's own row."""
    time_in_turns(ceilings.runs[name], {}, ROUNDS)
    kind, amount = {PRODUCT: ("flops", ceilings.product_flops), COPY: ("bytes", ceilings.copy_bytes)}[name]
    benchmark.extra_info |= {kind: amount, f"share_of_{name}": 1.0}
    if benchmark.enabled:
        benchmark.extra_info[f"{kind}_per_second"] = round(amount / benchmark.stats.stats.median)


def group_on_cpu(stage: str) -> str:
    return f"roofline: {stage} of one video, tiny, float32"


def group_on_gpu(stage: str) -> str:
    return f"roofline: {stage} of one video, sd21, bfloat16, on a GPU"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("provider", [PRODUCT, COPY])
def test_ceiling(benchmark, time_in_turns, cpu, stage, provider):
    benchmark.group = group_on_cpu(stage)
    time_ceiling(benchmark, time_in_turns, cpu, provider)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_stage(benchmark, time_in_turns, providers, cpu, tiny, stage, device, provider):
    run, expected = providers.runs(device, provider)[stage], providers.runs(device, BASELINE)[stage]()
    assert np.abs(run() - expected).max() < TOLERANCE * np.abs(expected).max()
    benchmark.group = group_on_cpu(stage)
    time_stage(benchmark, time_in_turns, run, tiny[stage], cpu)


def eager_stage(network: DiffVQA, stage: str, device: str) -> Callable[[], tuple[Tensor, ...]]:
    """A call of a stage in eager torch, in bfloat16, on random inputs of one video."""
    config = network.config
    module = stage_modules(network)[stage]
    write_precision(STAGES[stage], module, "bf16")
    module.to(device)
    sizes = {"videos": 1, "frames": len(VIEWS) * config.frames}
    inputs = [
        torch.zeros(1, dtype=torch.int64, device=device)
        if tensor.dtype == "int64"
        else torch.rand([sizes.get(size, size) for size in tensor.shape], device=device) * 2 - 1
        for tensor in engine_specs(config)[stage].inputs
    ]

    return torch.inference_mode()(waited_for(lambda: module(*inputs), device))


@pytest.fixture(scope="module")
def full_size() -> DiffVQA:
    return random_network(SD21)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("provider", [PRODUCT, COPY])
def test_ceiling_of_a_gpu(benchmark, time_in_turns, gpu, stage, provider):
    benchmark.group = group_on_gpu(stage)
    time_ceiling(benchmark, time_in_turns, gpu, provider)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("provider", [BASELINE])
def test_stage_on_a_gpu(benchmark, time_in_turns, gpu, full_size, stage, provider):
    run = eager_stage(full_size, stage, "cuda")
    assert all(output.isfinite().all() for output in run())
    benchmark.group = group_on_gpu(stage)
    work = stage_arithmetic(SD21, names=[stage], precision="bf16")[stage]
    time_stage(benchmark, time_in_turns, run, work, gpu)
