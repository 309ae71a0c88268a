"""The speed that may not be lost: ratios in turns, held to `benchmarks/floors.toml`; and that the check can fail.

Ratios alone: a machine's own times say nothing of a change.
"""

import dataclasses

import pytest
import turns
from diffvqa_kernels import testing
from floors import Floor, RegressionError, read_floors
from providers import BASELINE, StageInputs
from scans import HAS_GPU, PROVIDERS

from diffvqa_rt.engines import open_engines
from diffvqa_rt.metrics.diffvqa.presets import TINY

STAGES = ("vae_encoder", "unet_controller", "score")
SCANS = ("scan_numba", "scan_onnx")
ROUNDS = {"vae_encoder": 5, "unet_controller": 5, "score": 2, "scan_numba": 5, "scan_onnx": 5}
SCAN_SHAPE = (1, 128, 16, 1153)  # of `tiny`'s head
FLOOR = Floor(name="head", provider="fast", baseline="slow", floor=1.5, why="measured on a Tuesday")


@pytest.fixture(scope="module")
def stage_runs(built_engines, clip):
    engines = {"onnxruntime": open_engines(built_engines, "onnx")[1], BASELINE: open_engines(built_engines, "torch")[1]}
    inputs = StageInputs.of(engines[BASELINE], TINY, clip)
    return {name: inputs.runs(engines_of_one) for name, engines_of_one in engines.items()}


def test_every_floor_is_held_here():
    assert set(read_floors()) == {*STAGES, *SCANS}


@pytest.mark.parametrize("stage", STAGES)
def test_engines_keep_their_speed(stage_runs, stage):
    floor = read_floors()[stage]
    floor.check({name: runs[stage] for name, runs in stage_runs.items()}, rounds=ROUNDS[stage])


@pytest.fixture(scope="module")
def scan_inputs():
    return testing.bidirectional_inputs(*SCAN_SHAPE)


@pytest.mark.skipif(HAS_GPU, reason="the floors are of a CPU's scans, and a GPU has others")
@pytest.mark.parametrize("name", SCANS)
def test_the_scan_keeps_its_speed(name, scan_inputs):
    floor = read_floors()[name]
    scans = {provider: PROVIDERS[provider](scan_inputs) for provider in (floor.provider, floor.baseline)}
    runs = {provider: lambda scan=scan: scan(*scan_inputs) for provider, scan in scans.items()}
    floor.check(runs, rounds=ROUNDS[name])


def test_a_compiled_scan_that_became_the_plain_loop_fails(scan_inputs):
    floor = read_floors()["scan_numba"]
    reference = PROVIDERS[BASELINE](scan_inputs)
    runs = dict.fromkeys((floor.provider, floor.baseline), lambda: reference(*scan_inputs))
    with pytest.raises(
        RegressionError, match=r"^scan_numba: ours \(numba\) is [0-3]\.[0-9]{2} times as fast as pytorch"
    ):
        floor.check(runs, rounds=5, attempts=1)


class Clock:
    """Stands in for `time`, which no other work on the machine slows."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(turns, "time", clock)
    return clock


def test_what_is_too_slow_is_a_sentence_with_floor_ratios_and_file(clock):
    runs = {"fast": lambda: clock.sleep(0.1), "slow": lambda: clock.sleep(0.005)}
    with pytest.raises(RegressionError) as raised:
        FLOOR.check(runs, rounds=3)
    assert str(raised.value) == (
        "head: fast is 0.05, 0.05, 0.05 times as fast as slow in 3 attempts, and its floor in "
        "benchmarks/floors.toml is 1.5 (measured on a Tuesday)"
    )


def test_one_good_attempt_is_enough(clock):
    calls = iter(range(100))
    rounds = 2
    # Disturbed through the first attempt and its round to warm up.
    runs = {
        "fast": lambda: clock.sleep(0.05 if next(calls) <= rounds else 0.01),
        "slow": lambda: clock.sleep(0.02),
    }
    assert FLOOR.check(runs, rounds=rounds) == pytest.approx(2)
    assert next(calls) == 2 * (rounds + 1)


def test_one_disturbed_round_changes_nothing(clock):
    calls = iter(range(100))
    runs = {"fast": lambda: clock.sleep(0.1 if next(calls) == 1 else 0.01), "slow": lambda: clock.sleep(0.02)}
    assert FLOOR.check(runs, rounds=3, attempts=1) == pytest.approx(2)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"floor": 0.0}, "head: floor is 0.0; expected a positive ratio"), ({"why": ""}, "head has no why")],
)
def test_a_floor_without_sense_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(FLOOR, **change)


def test_a_floor_with_another_field_is_refused(tmp_path):
    (tmp_path / "floors.toml").write_text('[head]\nprovider = "fast"\nceiling = 2.0\n')
    with pytest.raises(ValueError, match="floors.toml: .*ceiling"):
        read_floors(tmp_path / "floors.toml")
