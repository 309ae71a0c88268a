"""One step of each metric's loop at full size on a CPU: the ONNX engine beside the same network in eager torch.

On one frame: both views of `sd21`, one of `paper`. Takes some minutes and 16 GB of memory, so it runs only when it is
asked for:

    pytest benchmarks/bench_full_size.py --benchmark-only -m slow
"""

import dataclasses

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
    """The metric, its config of one frame, the loop's engine, and a call of it by provider."""
    metric = metric_named(request.param)
    config = dataclasses.replace(list(metric.presets.values())[-1], frames=1)
    (loop,) = (item for item in metric.chain(config) if isinstance(item, Loop))
    engines = exported_beside_torch(metric.name, config, loop.engine, tmp_path_factory.mktemp(config.name))
    sizes = {"videos": 1, **metric_export(metric.name).dynamic_sizes(config)}
    inputs = random_inputs(metric.engines(config)[loop.engine], sizes, step=loop.count // 2)
    return metric.name, config, loop.engine, {name: call_of(engine, inputs) for name, engine in engines.items()}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_one_step_of_one_frame(benchmark, time_in_turns, runs, provider):
    metric, config, engine, calls = runs
    expected = calls[BASELINE]()
    for name, actual in calls[provider]().items():
        error = np.linalg.norm(actual - expected[name]) / np.linalg.norm(expected[name])
        assert error < metric_export(metric).stages[engine].tolerances["fp32"].relative, name

    benchmark.group = f"{engine}: one step of one frame, {config.name}, float32"
    baselines = {} if provider == BASELINE else {BASELINE: calls[BASELINE]}
    time_in_turns(calls[provider], baselines, ROUNDS, is_warm=True)
    flops = stage_arithmetic(metric, config, names=[engine])[engine].flops
    benchmark.extra_info["flops"] = flops
    if benchmark.enabled:
        benchmark.extra_info["flops_per_second"] = round(flops / benchmark.stats.stats.median)
