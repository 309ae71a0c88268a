"""One video of eight frames through each metric's `tiny`, stage by stage: every provider beside eager torch.

The stages are the metric's chain's: each engine once, and each loop. Every provider of a stage sees the same inputs and
threads, and takes turns, round by round, with the same network in eager torch. Outputs are compared before anything is
timed. `providers` says who they are; those of a GPU are compared with eager torch there.

    pytest benchmarks/bench_stages.py --benchmark-only
"""

import pytest
from diffvqa_export.registry import metric_export
from providers import BASELINE, CPU_PROVIDERS, GPU_PROVIDERS, PRESET, compiled_stages, network_of
from stage_runs import TOLERANCE, largest_error, titles

from diffvqa_rt.chain import Loop
from diffvqa_rt.metrics.registry import METRICS, metric_named

LOOP_ROUNDS, ROUNDS = 3, 7


def _rows() -> list:
    rows = [("cpu", provider) for provider in (*CPU_PROVIDERS, "pytorch_plain_scan")]
    rows += [("cuda", provider) for provider in GPU_PROVIDERS]
    return [
        pytest.param(metric, stage, device, provider, marks=[pytest.mark.gpu] if device == "cuda" else [])
        for metric in METRICS
        for stage, engine in _stages(metric).items()
        for device, provider in rows
        if _has_row(metric, engine, provider)
    ]


def _stages(metric: str) -> dict[str, str]:
    """The engine of each stage."""
    chain = metric_named(metric).chain(metric_named(metric).preset_named(PRESET))
    return {name: item.engine for item in chain for name in (item.engine, item.stage)}


def _has_row(metric: str, engine: str, provider: str) -> bool:
    if provider == "torch_compile":
        return engine in compiled_stages(metric)
    return provider != "pytorch_plain_scan" or metric_export(metric).stages[engine].has_scan


@pytest.mark.timeout(1200)  # the first one waits for all that is built and compiled
@pytest.mark.parametrize(("metric", "stage", "device", "provider"), _rows())
def test_stage(benchmark, time_in_turns, providers, metric, stage, device, provider):
    own = providers[metric]
    run, baseline = own.runs(device, provider)[stage], own.runs(device, BASELINE)[stage]
    assert largest_error(run(), baseline()) < TOLERANCE

    where = ", on a GPU" if device == "cuda" else ""
    benchmark.group = f"{stage}: {titles(own.inputs.chain)[stage]}, {network_of(metric)}, float32{where}"
    benchmark.extra_info["rows"] = own.inputs.rows
    is_loop = any(isinstance(item, Loop) and item.stage == stage for item in own.inputs.chain)
    rounds = LOOP_ROUNDS if is_loop else ROUNDS
    time_in_turns(run, {} if provider == BASELINE else {BASELINE: baseline}, rounds, is_warm=True)
