"""Chains: what `play` gives each engine, when it lets go of a tensor, and which chains `check_chain` refuses."""

import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest

from diffvqa_rt.chain import STEP, Call, Loop, StageClock, play, run_loop
from diffvqa_rt.chain_check import check_chain
from diffvqa_rt.metrics.registry import METRICS, metric_named
from diffvqa_rt.specs import EngineSpec, PixelScale, TensorSpec

SCALE = PixelScale(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
PIXELS = ("rows", 3, 2, 2)
ENCODER = EngineSpec(
    "encoder",
    inputs=(TensorSpec("pixels", "float32", PIXELS),),
    outputs=(TensorSpec("x", "float32", ("rows", 3)), TensorSpec("unread", "float32", ("rows",))),
    is_per_frame=False,
    pixels={"pixels": SCALE},
)
TURN = EngineSpec(
    "turn",
    inputs=(
        TensorSpec("y", "float32", ("rows", 3)),
        TensorSpec("x", "float32", ("rows", 3)),
        TensorSpec(STEP, "int64", (1,)),
    ),
    outputs=(TensorSpec("y_next", "float32", ("rows", 3)), TensorSpec("size", "float32", ("rows",))),
    is_per_frame=False,
)
HEAD = EngineSpec(
    "head",
    inputs=(TensorSpec("y_last", "float32", ("rows", 3)), TensorSpec("pixels", "float32", PIXELS)),
    outputs=(TensorSpec("score", "float32", ("rows",)),),
    is_per_frame=False,
    pixels={"pixels": SCALE},
)
SPECS = {spec.name: spec for spec in (ENCODER, TURN, HEAD)}
GIVEN = (TensorSpec("pixels", "uint8", PIXELS),)
LOOP = Loop(
    stage="refine",
    engine="turn",
    count=3,
    inputs=("x",),
    carry={"y": "y_next"},
    start={"y": "x"},
    keep={"y_last": ("y_next", 2), "y_first": ("y_next", 0), "size": ("size", 2)},
)
CHAIN = (
    Call(engine="encoder", inputs=("pixels",), outputs=("x",)),
    LOOP,
    Call(engine="head", inputs=("y_last", "pixels"), outputs=("score",)),
)


class OnDevice:
    """An array that NumPy reads by a copy, as a GPU's."""

    def __init__(self, values):
        self.values = values
        self.shape, self.ndim, self.dtype = values.shape, values.ndim, values.dtype

    def __array__(self, dtype=None, copy=None):
        return self.values.copy()


class Engine:
    """One of the three. `calls`: the inputs and the outputs asked for; it overwrites what it gave before."""

    def __init__(self, spec, max_videos=None):
        self.spec, self.max_videos = spec, max_videos
        self.calls = []
        self._given: list[OnDevice] = []

    def __call__(self, inputs, outputs=None):
        self.spec.check_inputs(inputs)
        self.calls.append((dict(inputs), list(outputs)))
        computed = self._computed(**{name: np.asarray(array) for name, array in inputs.items()})
        made = {name: OnDevice(array) for name, array in computed.items() if name in outputs}
        for array in self._given:
            array.values[:] = np.nan
        self._given = list(made.values())
        return made

    def _computed(self, **inputs):
        if self.spec is ENCODER:
            return {"x": inputs["pixels"].mean((2, 3)), "unread": inputs["pixels"].sum((1, 2, 3))}
        if self.spec is TURN:
            return {
                "y_next": inputs["y"] + inputs["x"] * np.float32(1 + inputs["step"][0]),
                "size": abs(inputs["y"]).sum(1),
            }
        return {"score": inputs["y_last"].sum(1) + inputs["pixels"].max((1, 2, 3))}


def engines(**limits):
    return {name: Engine(spec, limits.get(name)) for name, spec in SPECS.items()}


def pixels(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).integers(0, 256, (rows, 3, 2, 2), np.uint8)


def expected_score(given: np.ndarray) -> np.ndarray:
    frames = given.astype(np.float32) / 127.5 - 1
    x = frames.mean((2, 3))
    return (x * (1 + 1 + 2 + 3)).sum(1) + frames.max((1, 2, 3))


def test_play_gives_what_no_stage_reads():
    outputs = play(CHAIN, engines(), {"pixels": pixels(2)})
    assert list(outputs) == ["y_first", "size", "score"]
    np.testing.assert_allclose(outputs["score"], expected_score(pixels(2)), rtol=1e-6)
    assert list(play(CHAIN[:1], engines(), {"pixels": pixels(2)})) == ["x"]


def test_rows_come_out_the_same_however_many_an_engine_takes():
    whole = play(CHAIN, engines(), {"pixels": pixels(5)})
    cut = play(CHAIN, engines(turn=2), {"pixels": pixels(5)})
    for name, values in whole.items():
        np.testing.assert_array_equal(cut[name], values)


def test_pixels_are_normalised_once_for_all_that_read_them():
    made = engines()
    play(CHAIN, made, {"pixels": pixels(1)})
    (first, _), (second, _) = made["encoder"].calls[0], made["head"].calls[0]
    assert first["pixels"] is second["pixels"]
    np.testing.assert_array_equal(first["pixels"], pixels(1).astype(np.float32) / np.float32(127.5) - 1)
    scale = PixelScale(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    channel = scale.normalize(pixels(1))[0, 2]
    np.testing.assert_allclose(channel, (pixels(1)[0, 2] / 255 - 0.406) / 0.225, rtol=1e-5)


def test_a_turn_is_asked_for_what_is_carried_or_kept_alone():
    made = engines()
    play(CHAIN, made, {"pixels": pixels(1)})
    assert [asked for _, asked in made["turn"].calls] == [["y_next"], ["y_next"], ["y_next", "size"]]
    assert [int(inputs[STEP][0]) for inputs, _ in made["turn"].calls] == [0, 1, 2]


def test_what_an_early_turn_gave_is_kept_though_the_next_turn_overwrites_it():
    x = np.ones((1, 3), np.float32)
    kept = run_loop(LOOP, Engine(TURN), {"x": x})
    np.testing.assert_array_equal(kept["y_first"], x * 2)
    np.testing.assert_array_equal(kept["y_last"], x * 7)


def test_the_turns_before_the_last_and_the_last_are_the_loop():
    x = np.ones((1, 3), np.float32)
    earlier = LOOP.without_last_turn()
    kept = run_loop(earlier, Engine(TURN), {"x": x})
    assert set(kept) == {"y", "y_first"}
    last = Engine(TURN)({"y": kept["y"], "x": x, STEP: np.array([2])}, ["y_next"])
    np.testing.assert_array_equal(last["y_next"], run_loop(LOOP, Engine(TURN), {"x": x})["y_last"])
    assert replace(LOOP, count=1, keep={}).without_last_turn() is None


def test_an_engine_that_loops_by_itself_does_so_unless_somebody_watches():
    class Looping(Engine):
        def loop(self, loop, tensors, before_turn):
            before_turn()
            self.looped = run_loop(loop, Engine(TURN), tensors)
            return self.looped

    made = engines() | {"turn": Looping(TURN)}
    outputs = play(CHAIN, made, {"pixels": pixels(1)})
    np.testing.assert_array_equal(outputs["y_first"], made["turn"].looped["y_first"])
    assert made["turn"].calls == []
    seen = []
    play(
        CHAIN, made, {"pixels": pixels(1)}, observe=lambda engine, inputs, outputs: seen.append((engine, set(outputs)))
    )
    assert seen == [("encoder", {"x"}), *[("turn", {"y_next"})] * 2, ("turn", {"y_next", "size"}), ("head", {"score"})]


def test_a_tensor_is_let_go_after_its_last_reader():
    class Watching(Engine):
        def __call__(self, inputs, outputs=None):
            if self.spec is HEAD:
                self.is_gone = made["encoder"].watched() is None
            outputs = super().__call__(inputs, outputs)
            if self.spec is ENCODER:
                self._given, self.calls = [], []
                self.watched = weakref.ref(outputs["x"])
            elif self.spec is TURN:
                self.calls = []
            return outputs

    made = {name: Watching(spec) for name, spec in SPECS.items()}
    play(CHAIN, made, {"pixels": pixels(1)})
    assert made["head"].is_gone


def test_the_clock_has_each_stage_by_its_name_and_a_loop_may_be_ended_between_turns():
    clock = StageClock()
    play(CHAIN, engines(), {"pixels": pixels(1)}, clock=clock)
    assert list(clock.seconds) == ["encoder", "refine", "head"]
    turns = []

    def before_turn():
        turns.append(len(turns))
        if len(turns) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(CHAIN, engines(), {"pixels": pixels(1)}, before_turn=before_turn)


def test_sizes_follow_along_the_chain():
    tensors = check_chain(CHAIN, SPECS, (TensorSpec("pixels", "uint8", ("videos", 3, 2, 2)),))
    assert tensors["y_first"] == TensorSpec("y_first", "float32", ("videos", 3))
    assert tensors["score"] == TensorSpec("score", "float32", ("videos",))


@pytest.mark.parametrize(
    ("chain", "sentence"),
    [
        ((replace(CHAIN[0], engine="decoder"),), "there is no engine decoder, only encoder, turn, head"),
        (CHAIN[1:], "refine reads x, which nothing before it makes"),
        ((CHAIN[0], CHAIN[0]), "encoder makes x, which is there already"),
        ((replace(CHAIN[0], outputs=("y",)),), "encoder does not give y, only x, unread"),
        ((replace(CHAIN[0], inputs=()),), "encoder is given ; encoder takes pixels"),
        ((CHAIN[0], replace(LOOP, start={})), "refine carries y and starts "),
        ((CHAIN[0], replace(LOOP, carry={"y": "size"})), "refine carries size into y, which are not alike"),
        ((CHAIN[0], replace(LOOP, keep={"late": ("y_next", 3)})), "refine has no y_next of turn 3 to keep as late"),
        ((CHAIN[0], replace(LOOP, keep={"late": ("y", 0)})), "refine has no y of turn 0 to keep as late"),
    ],
)
def test_a_chain_that_does_not_fit_its_engines_is_refused(chain, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_chain(chain, SPECS, GIVEN)


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"encoder takes pixels as float32 .*; pixels is uint8 \('rows', 1, 2, 2\)"):
        check_chain(CHAIN, SPECS, (TensorSpec("pixels", "uint8", ("rows", 1, 2, 2)),))
    with pytest.raises(ValueError, match="encoder takes pixels as float32"):
        check_chain(CHAIN, SPECS, (TensorSpec("pixels", "float64", PIXELS),))


@pytest.mark.parametrize("name", METRICS)
def test_every_metrics_chains_fit_its_engines(name):
    metric = metric_named(name)
    for config in metric.presets.values():
        chains = metric.chains(config)
        assert metric.name in chains
        for chain in chains.values():
            check_chain(chain, metric.engines(config), metric.given(config))


class Branch:
    """An engine of one thread that ends once as many of its kind as `meeting` waits for are at work."""

    max_videos = None

    def __init__(self, name, meeting=None, threads=2):
        border = TensorSpec("pixels", "uint8", PIXELS), TensorSpec(name, "float32", ("rows",))
        self.spec = EngineSpec(name, inputs=border[:1], outputs=border[1:], is_per_frame=False)
        self.threads, self._meeting = threads, meeting

    def __call__(self, inputs, outputs=None):
        if self._meeting is not None:
            self._meeting.wait(timeout=10)
        return {self.spec.name: inputs["pixels"].astype(np.float32).sum((1, 2, 3))}


BRANCHES = tuple(Call(engine=name, inputs=("pixels",), outputs=(name,)) for name in ("one", "other", "third"))


def test_engines_of_one_thread_that_read_nothing_of_each_other_run_side_by_side():
    meeting = threading.Barrier(2)
    branches = {name: Branch(name, meeting) for name in ("one", "other")} | {"third": Branch("third")}
    clock = StageClock()
    outputs = play(BRANCHES, branches, {"pixels": pixels(1)}, clock=clock)
    assert list(outputs) == ["one", "other", "third"] and clock.seconds.keys() == outputs.keys()


@pytest.mark.parametrize(
    ("rows", "threads", "observe"),
    [(2, 2, None), (1, 1, None), (1, 2, lambda *seen: None)],
    ids=["of several rows", "on one thread", "under observation"],
)
def test_else_they_run_one_after_the_other(rows, threads, observe):
    runs: list[int] = []
    alone = _Alone(runs)
    branches = {call.engine: Branch(call.engine, alone, threads) for call in BRANCHES}
    play(BRANCHES, branches, {"pixels": pixels(rows)}, observe=observe)
    assert runs == [1, 1, 1]


class _Alone:
    """Counts who is at work at the same time."""

    def __init__(self, most):
        self.most, self._at_work = most, 0

    def wait(self, timeout):
        self._at_work += 1
        time.sleep(0.02)
        self.most.append(self._at_work)
        self._at_work -= 1


@pytest.mark.parametrize("metric", METRICS)
def test_the_steps_of_a_loop_can_be_chosen_and_the_label_says_them(metric):
    declared = metric_named(metric)
    for name, preset in declared.presets.items():
        steps = declared.steps(preset)
        assert (declared.with_steps is None) == (steps is None)
        assert declared.label(preset) == name
        if steps is None:
            with pytest.raises(
                ValueError, match=f"steps is 1; {declared.title} has no steps to choose, leave steps out"
            ):
                declared.network_of_steps(preset, 1)
            continue
        fewer = declared.network_of_steps(preset, 10 if steps > 10 else 1)
        check_chain(declared.chain(fewer), declared.engines(fewer), declared.given(fewer))
        assert declared.label(fewer) == f"{name}, {'10 steps' if steps > 10 else '1 step'}"
        assert declared.label(replace(fewer, name="mine")) == "mine"  # there is no preset to tell it from
