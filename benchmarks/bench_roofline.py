"""How much of the machine each stage uses: its arithmetic and its bytes beside what this machine can do at most.

The ceilings are measured in turns with every row: one large matrix product with all threads, and one large copy, too
large for a cache. `arithmetic` says what of a stage counts. A row's `speedup_over_matrix_product` is its FLOP/s over
the product's, which is its share. On a CPU that is `tiny` in float32; on a GPU each metric's largest network in
bfloat16, eager torch's (`bench_denoise_gpu` has the engines).

    pytest benchmarks/bench_roofline.py --benchmark-only
"""

from collections.abc import Callable

import pytest
import torch
from arithmetic import Arithmetic, stage_arithmetic
from ceilings import COPY, PRODUCT, Ceilings, time_with_shares, waited_for
from diffvqa_export.precision import write_precision
from diffvqa_export.registry import metric_export
from diffvqa_export.weights import random_weights
from providers import BASELINE, network_of
from stage_runs import TOLERANCE, largest_error, random_inputs
from torch import Tensor
from turns import Run

from diffvqa_rt.engines import available_cpus
from diffvqa_rt.metrics.registry import METRICS, metric_named
from diffvqa_rt.models.registry import models_of

ROUNDS = 3
PROVIDERS = ("onnxruntime", BASELINE)
STAGES = [(metric, stage) for metric in METRICS for stage in metric_export(metric).stages]

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture(scope="module")
def cpu() -> Ceilings:
    torch.set_num_threads(available_cpus())
    # 1 GiB read and written: a server's cache may hold hundreds of MB.
    return Ceilings.of("cpu", torch.float32, side=2048, copied_bytes=2**29)


@pytest.fixture(scope="module")
def gpu() -> Ceilings:
    return Ceilings.of("cuda", torch.bfloat16, side=8192, copied_bytes=2**32)


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


def group_on_cpu(metric: str, stage: str) -> str:
    return f"roofline: {stage} of one video, {network_of(metric)}, float32"


def group_on_gpu(metric: str, stage: str) -> str:
    return f"roofline: {stage} of one video, {largest_of(metric).name}, bfloat16, on a GPU"


def largest_of(metric: str):
    """The config of the metric's largest network."""
    return list(metric_named(metric).presets.values())[-1]


@pytest.mark.parametrize(("metric", "stage"), STAGES)
@pytest.mark.parametrize("provider", [PRODUCT, COPY])
def test_ceiling(benchmark, time_in_turns, cpu, metric, stage, provider):
    benchmark.group = group_on_cpu(metric, stage)
    time_ceiling(benchmark, time_in_turns, cpu, provider)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("metric", "stage"), STAGES)
@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_stage(benchmark, time_in_turns, providers, cpu, metric, stage, device, provider):
    own = providers[metric]
    run = own.runs(device, provider)[stage]
    assert largest_error(run(), own.runs(device, BASELINE)[stage]()) < TOLERANCE
    benchmark.group = group_on_cpu(metric, stage)
    benchmark.extra_info["rows"] = own.inputs.rows
    work = stage_arithmetic(metric, own.config, names=[stage], rows=own.inputs.rows)[stage]
    time_stage(benchmark, time_in_turns, run, work, cpu)


def eager_stage(metric: str, stage: str, rows: int, device: str) -> Callable[[], tuple[Tensor, ...]]:
    """A call of a stage of the largest network in eager torch, in bfloat16, on random inputs."""
    config, export = largest_of(metric), metric_export(metric)
    module = models_of(metric).stages(random_weights(config, metric=metric).load())[stage]
    write_precision(export.stages[stage], module, "bf16")
    module.to(device)
    spec = metric_named(metric).engines(config)[stage]
    arrays = random_inputs(spec, {"videos": rows, **export.dynamic_sizes(config)})
    inputs = [torch.from_numpy(arrays[tensor.name]).to(device) for tensor in spec.inputs]
    return torch.inference_mode()(waited_for(lambda: module(*inputs), device))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("metric", "stage"), STAGES)
@pytest.mark.parametrize("provider", [PRODUCT, COPY])
def test_ceiling_of_a_gpu(benchmark, time_in_turns, gpu, metric, stage, provider):
    benchmark.group = group_on_gpu(metric, stage)
    time_ceiling(benchmark, time_in_turns, gpu, provider)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("metric", "stage"), STAGES)
@pytest.mark.parametrize("provider", [BASELINE])
def test_stage_on_a_gpu(benchmark, time_in_turns, gpu, metric, stage, provider):
    config = largest_of(metric)
    rows = metric_named(metric).rows_a_crop(config)
    run = eager_stage(metric, stage, rows, "cuda")
    assert all(output.isfinite().all() for output in run())
    benchmark.group = group_on_gpu(metric, stage)
    work = stage_arithmetic(metric, config, names=[stage], rows=rows, precision="bf16")[stage]
    time_stage(benchmark, time_in_turns, run, work, gpu)
