"""The speed that may not be lost: ratios in turns, held to `benchmarks/floors.toml`; and that the check can fail.

Ratios alone: a machine's own times say nothing of a change.
"""

import dataclasses

import pytest
import turns
from diffvqa_kernels import testing
from floors import Floor, RegressionError, read_floors
from providers import BASELINE, PROMPT, prepared
from scans import HAS_GPU, PROVIDERS
from stage_runs import WHOLE, StageInputs

from diffvqa_rt import Scorer
from diffvqa_rt.engines import open_engines
from diffvqa_rt.metric import Request

# Floor → stage. A picture has five crops.
OF_A_VIDEO = {"vae_encoder": "vae_encoder", "unet_controller": "unet_controller", "score": WHOLE}
OF_A_PICTURE = {"restoration_step": "restoration_step", "quality_branches": "quality_branches", "picture": WHOLE}
OF_A_GENERATED_VIDEO = {"technical": "technical", "generated_video": WHOLE}
PROMPTS = "ten_prompts"
SCANS = ("scan_numba", "scan_onnx")
ROUNDS = {"score": 2, "picture": 2}
MANY_ROUNDS = 5
SCAN_SHAPE = (1, 128, 16, 1153)  # of `tiny`'s head
FLOOR = Floor(name="head", provider="fast", baseline="slow", floor=1.5, why="measured on a Tuesday")


@pytest.fixture(scope="module")
def video_runs(built_engines, clip):
    return runs_by_provider(built_engines, clip)


@pytest.fixture(scope="module")
def picture_runs(diffv2iqa_engines, clip):
    return runs_by_provider(diffv2iqa_engines, clip, Request(frames=1))


@pytest.fixture(scope="module")
def prompted_runs(prompted_engines, clip):
    return runs_by_provider(prompted_engines, clip)


def runs_by_provider(folder, source, request=None):
    engines = {}
    for provider, backend in (("onnxruntime", "onnx"), (BASELINE, "torch")):
        manifest, engines[provider] = open_engines(folder, backend)
    given = prepared(manifest.metric, manifest.config, source, request)
    inputs = StageInputs.of(manifest.metric.chain(manifest.config), engines[BASELINE], given)
    return {provider: inputs.runs(own) for provider, own in engines.items()}


def check(name, runs):
    read_floors()[name].check(runs, rounds=ROUNDS.get(name, MANY_ROUNDS))


def test_every_floor_is_held_here():
    assert set(read_floors()) == {*OF_A_VIDEO, *OF_A_PICTURE, *OF_A_GENERATED_VIDEO, PROMPTS, *SCANS}


@pytest.mark.parametrize("name", OF_A_VIDEO)
def test_engines_keep_their_speed_with_videos(video_runs, name):
    check(name, {provider: runs[OF_A_VIDEO[name]] for provider, runs in video_runs.items()})


@pytest.mark.parametrize("name", OF_A_PICTURE)
def test_engines_keep_their_speed_with_pictures(picture_runs, name):
    check(name, {provider: runs[OF_A_PICTURE[name]] for provider, runs in picture_runs.items()})


@pytest.mark.parametrize("name", OF_A_GENERATED_VIDEO)
def test_engines_keep_their_speed_with_prompts(prompted_runs, name):
    check(name, {provider: runs[OF_A_GENERATED_VIDEO[name]] for provider, runs in prompted_runs.items()})


def test_ten_prompts_see_a_video_once(prompted_engines, clip):
    prompts = {"one_prompt": [PROMPT], "ten_prompts": [f"{PROMPT} at {hour} o'clock" for hour in range(10)]}
    with Scorer.open(prompted_engines) as scorer:
        check(
            PROMPTS,
            {name: lambda own=own: list(scorer.score_many([clip], prompts=[own])) for name, own in prompts.items()},
        )


@pytest.fixture(scope="module")
def scan_inputs():
    return testing.bidirectional_inputs(*SCAN_SHAPE)


@pytest.mark.skipif(HAS_GPU, reason="the floors are of a CPU's scans, and a GPU has others")
@pytest.mark.parametrize("name", SCANS)
def test_the_scan_keeps_its_speed(name, scan_inputs):
    floor = read_floors()[name]
    scans = {provider: PROVIDERS[provider](scan_inputs) for provider in (floor.provider, floor.baseline)}
    check(name, {provider: lambda scan=scan: scan(*scan_inputs) for provider, scan in scans.items()})


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
