"""How the time grows: with the number N of views, of steps and T of frames, and the side S of the views.

N and the steps are of the engine of a metric's loop, nine tenths of the arithmetic; S is of the first engine of such a
chain, which takes the views. A metric without a loop has T, which all of its chain grows with: each T is a network.
`bench_batch` has the number V of videos and C of crops, `bench_score` P of prompts, `bench_decode` a file's length. All
rows of an axis are one group, and `scaling.fitted_exponent` says how steep it is: 1 is linear, and in S, where four
times the pixels are twice the side, 2 is linear in the pixels and 4 what attention would be alone.

    pytest benchmarks/bench_scaling.py --benchmark-only
"""

import dataclasses

import pytest
from providers import BASELINE, PRESET, exported_beside_torch, network_of, prepared
from stage_runs import TOLERANCE, call_of, chain_of, largest_error, random_inputs, some_views

from diffvqa_rt.chain import Loop
from diffvqa_rt.metrics.registry import METRICS, metric_named

ROUNDS = 5
VIEWS = (1, 4, 16)
# For steps and sides: enough to keep two cores at work.
FEW_VIEWS = 4
FRAMES = (4, 8, 16)
PROVIDERS = ("onnxruntime", BASELINE)

pytestmark = [pytest.mark.timeout(1200), pytest.mark.parametrize("device", ["cpu"])]


def preset_of(metric):
    return metric_named(metric).preset_named(PRESET)


# The loop of each metric that has one.
LOOPS = {
    metric: item
    for metric in METRICS
    for item in metric_named(metric).chain(preset_of(metric))
    if isinstance(item, Loop)
}


def sides_of(metric) -> tuple[int, ...]:
    side = preset_of(metric).view_size
    return 64, side, 2 * side


def time_row(benchmark, time_in_turns, metric, provider, axis, value, what, runs):
    """One row of an axis; `runs` has a call for each provider that returns what is compared."""
    assert largest_error(runs[provider](), runs[BASELINE]()) < TOLERANCE
    benchmark.group = f"scaling: {what}, {network_of(metric)}, float32"
    benchmark.extra_info |= {"axis": axis, "value": value}
    time_in_turns(runs[provider], {} if provider == BASELINE else {BASELINE: runs[BASELINE]}, ROUNDS, is_warm=True)


@pytest.mark.parametrize("metric", LOOPS)
@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_views(benchmark, time_in_turns, providers, metric, device, provider, views):
    own, name = providers[metric], LOOPS[metric].engine
    inputs, outputs = own.inputs.calls[name]
    inputs = some_views(own.metric.engines(own.config)[name], inputs, views)
    runs = {provider: call_of(own.engines(device, provider)[name], inputs, outputs) for provider in PROVIDERS}
    time_row(benchmark, time_in_turns, metric, provider, "N", views, f"one step of {name} on N views", runs)


@pytest.mark.parametrize(
    ("metric", "steps"),
    [(metric, steps) for metric, loop in LOOPS.items() for steps in sorted({1, min(3, loop.count), loop.count})],
)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_steps(benchmark, time_in_turns, providers, metric, device, provider, steps):
    own, loop = providers[metric], LOOPS[metric]
    tensors = some_views(own.metric.engines(own.config)[loop.engine], own.inputs.looped[loop.stage], FEW_VIEWS)
    kept = {name: (output, steps - 1) for name, output in loop.carry.items()}
    shorter = dataclasses.replace(loop, count=steps, keep=kept)
    runs = {provider: chain_of((shorter,), own.engines(device, provider), tensors) for provider in PROVIDERS}
    what = f"the first steps of {loop.engine} on {FEW_VIEWS} views"
    time_row(benchmark, time_in_turns, metric, provider, "steps", steps, what, runs)


@pytest.fixture(scope="module")
def engines_by_side():
    """The engines of the sides that no other benchmark has engines of, by metric and side, as they are made."""
    return {}


@pytest.mark.parametrize(("metric", "side"), [(metric, side) for metric in LOOPS for side in sides_of(metric)])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_sides(benchmark, time_in_turns, providers, engines_by_side, tmp_path, metric, device, provider, side):
    own = providers[metric]
    config = dataclasses.replace(own.config, view_size=side)
    name = own.inputs.chain[0].engine
    if side == own.config.view_size:
        engines = {provider: own.engines(device, provider)[name] for provider in PROVIDERS}
    else:
        if (metric, side) not in engines_by_side:
            engines_by_side[metric, side] = exported_beside_torch(metric, config, name, tmp_path)
        engines = engines_by_side[metric, side]
    spec = own.metric.engines(config)[name]
    inputs = random_inputs(spec, {"videos": 1, "frames": FEW_VIEWS} if spec.is_per_frame else {"videos": FEW_VIEWS})
    runs = {provider: call_of(engine, inputs) for provider, engine in engines.items()}
    what = f"{name} on {FEW_VIEWS} views of S×S"
    time_row(benchmark, time_in_turns, metric, provider, "S", side, what, runs)


@pytest.fixture(scope="module")
def engines_by_frames():
    """The engines of each T by provider and name, by metric and T, as they are made."""
    return {}


def engines_of(own, config, folder):
    """The built engines, but exported ones where their border is another with this config."""
    engines = {provider: dict(own.engines("cpu", provider)) for provider in PROVIDERS}
    built = own.metric.engines(own.config)
    for name in (name for name, spec in own.metric.engines(config).items() if spec != built[name]):
        for provider, engine in exported_beside_torch(own.metric.name, config, name, folder).items():
            engines[provider][name] = engine
    return engines


@pytest.mark.parametrize("metric", [metric for metric in METRICS if metric not in LOOPS])
@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_frames(
    benchmark, time_in_turns, providers, engines_by_frames, clip, tmp_path, metric, device, provider, frames
):
    own = providers[metric]
    config = dataclasses.replace(own.config, frames=frames)
    if (metric, frames) not in engines_by_frames:
        engines_by_frames[metric, frames] = engines_of(own, config, tmp_path)
    chain, given = own.metric.chain(config), prepared(own.metric, config, clip)
    runs = {name: chain_of(chain, engines, given) for name, engines in engines_by_frames[metric, frames].items()}
    time_row(benchmark, time_in_turns, metric, provider, "T", frames, "all stages on T frames", runs)
