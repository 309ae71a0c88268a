"""The calls that the benchmarks make of a chain, and how they are compared."""

import numpy as np
import pytest
from stage_runs import StageInputs, largest_error, random_inputs, some_views, titles

from diffvqa_rt.chain import STEP, Call, Loop
from diffvqa_rt.specs import EngineSpec, TensorSpec

ROWS = ("videos", 2)
DOUBLE = EngineSpec(
    "double",
    inputs=(TensorSpec("y", "float32", ROWS), TensorSpec("x", "float32", ROWS), TensorSpec(STEP, "int64", (1,))),
    outputs=(TensorSpec("y_next", "float32", ROWS), TensorSpec("unread", "float32", ROWS)),
    is_per_frame=False,
)
SUM = EngineSpec(
    "sum",
    inputs=(TensorSpec("x", "float32", ROWS), TensorSpec("y_last", "float32", ROWS)),
    outputs=(TensorSpec("total", "float32", ("videos",)),),
    is_per_frame=False,
)
LOOP = Loop(
    stage="grow",
    engine="double",
    count=4,
    inputs=("x",),
    carry={"y": "y_next"},
    start={"y": "x"},
    keep={"y_last": ("y_next", 3)},
)
CHAIN = (LOOP, Call(engine="sum", inputs=("x", "y_last"), outputs=("total",)))


class Engine:
    max_videos = None

    def __init__(self, spec, function):
        self.spec, self.function = spec, function

    def __call__(self, inputs, outputs=None):
        self.spec.check_inputs(inputs)
        made = dict(zip((spec.name for spec in self.spec.outputs), self.function(**inputs), strict=True))
        return {name: made[name] for name in outputs or made}


@pytest.fixture
def engines():
    return {
        "double": Engine(DOUBLE, lambda y, x, step: (2 * y, y)),
        "sum": Engine(SUM, lambda x, y_last: ((x + y_last).sum(1),)),
    }


@pytest.fixture
def inputs(engines):
    return StageInputs.of(CHAIN, engines, {"x": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)})


def test_each_stage_is_called_as_the_chain_calls_it(inputs, engines):
    runs = inputs.runs(engines)
    assert runs.keys() == {"double", "grow", "sum", "score"}
    # The third of four turns, with what is read of it.
    assert {name: array.tolist() for name, array in runs["double"]().items()} == {"y_next": [[8, 16], [24, 32]]}
    assert runs["grow"]()["y_last"].tolist() == [[16, 32], [48, 64]]
    assert runs["sum"]()["total"].tolist() == runs["score"]()["total"].tolist() == [51, 119]
    assert inputs.rows == 2


def test_every_stage_has_a_title():
    assert titles(CHAIN) == {"double": "one step of one video", "grow": "all 4 steps of one video", "sum": "one video"}


def test_views_are_taken_round_and_round_and_the_step_is_not():
    values = {"x": np.arange(6).reshape(1, 3, 2), STEP: np.array([7])}
    per_frame = EngineSpec("frames", inputs=(), outputs=(), is_per_frame=True)
    assert some_views(per_frame, values, 4)["x"].tolist() == [[[0, 1], [2, 3], [4, 5], [0, 1]]]
    assert some_views(SUM, values, 2)["x"].shape == (2, 3, 2)
    assert some_views(SUM, values, 2)[STEP].tolist() == [7]


def test_random_inputs_fit_the_border_and_are_the_same_again():
    one, again = (random_inputs(DOUBLE, {"videos": 3}, step=2) for _ in range(2))
    DOUBLE.check_inputs(one)
    assert one["x"].shape == (3, 2) and one[STEP].tolist() == [2]
    assert all((one[name] == again[name]).all() for name in one)


def test_the_error_is_that_of_the_worst_output_and_nan_is_worst():
    expected = {"a": np.array([1.0, -4.0]), "b": np.array([10.0])}
    assert largest_error({"a": np.array([1.0, -3.0]), "b": np.array([10.1])}, expected) == 0.25
    assert np.isnan(largest_error({"a": np.array([1.0, -4.0]), "b": np.array([np.nan])}, expected))
