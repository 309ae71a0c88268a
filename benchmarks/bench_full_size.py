"""One step of each metric's loop at full size on a CPU: the ONNX engine beside the same network in eager torch.

On one frame: both views of `sd21`, one of DiffV²IQA's `paper`; of a metric without a loop, the engine that sees its
frames one by one. Takes some minutes and 16 GB of memory, so it runs only when it is asked for:

    pytest benchmarks/bench_full_size.py --benchmark-only -m slow
"""

import numpy as np
import pytest
from arithmetic import stage_arithmetic
from diffvqa_export.registry import metric_export
from providers import BASELINE, exported_beside_torch
from stage_runs import call_of, random_inputs

from diffvqa_rt.chain import Loop
from diffvqa_rt.metrics.registry import METRICS, metric_named

ROUNDS = 5
PROVIDERS = ("onnxruntime", BASELINE)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", params=METRICS)
def runs(request, tmp_path_factory):
    """The metric, its config, the engine, its dynamic sizes for one frame, and a call of it by provider."""
    metric = metric_named(request.param)
    config = list(metric.presets.values())[-1]
    specs = metric.engines(config)
    loops = {item.engine: item.count for item in metric.chain(config) if isinstance(item, Loop)}
    name = next(iter(loops or (name for name, spec in specs.items() if spec.is_per_frame)))
    sizes = {axis: size // config.frames for axis, size in metric_export(metric.name).dynamic_sizes(config).items()}
    engines = exported_beside_torch(metric.name, config, name, tmp_path_factory.mktemp(config.name))
    inputs = random_inputs(specs[name], {"videos": 1, **sizes}, step=loops.get(name, 0) // 2)
    return metric.name, config, name, sizes, {who: call_of(engine, inputs) for who, engine in engines.items()}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_one_frame(benchmark, time_in_turns, runs, provider):
    metric, config, engine, sizes, calls = runs
    expected = calls[BASELINE]()
    for name, actual in calls[provider]().items():
        error = np.linalg.norm(actual - expected[name]) / np.linalg.norm(expected[name])
        assert error < metric_export(metric).stages[engine].tolerances["fp32"].relative, name

    is_step = any(isinstance(item, Loop) and item.engine == engine for item in metric_named(metric).chain(config))
    what = "one step of one frame" if is_step else "one frame"
    benchmark.group = f"{engine}: {what}, {config.name}, float32"
    baselines = {} if provider == BASELINE else {BASELINE: calls[BASELINE]}
    time_in_turns(calls[provider], baselines, ROUNDS, is_warm=True)
    flops = stage_arithmetic(metric, config, names=[engine], sizes=sizes)[engine].flops
    benchmark.extra_info["flops"] = flops
    if benchmark.enabled:
        benchmark.extra_info["flops_per_second"] = round(flops / benchmark.stats.stats.median)
