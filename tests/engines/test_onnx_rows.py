"""A loop over rows beside each other on ONNX Runtime: the bits of turn by turn, and no thread that waits."""

import threading

import numpy as np
import pytest

from diffvqa_rt.chain import STEP, Loop, play, run_loop
from diffvqa_rt.engines.onnx_backend import OnnxRowEngine
from diffvqa_rt.specs import EngineSpec, TensorSpec

ROWS = ("videos", 3)
SPEC = EngineSpec(
    "turn",
    inputs=(TensorSpec("y", "float32", ROWS), TensorSpec("x", "float32", ROWS), TensorSpec(STEP, "int64", (1,))),
    outputs=(TensorSpec("y_next", "float32", ROWS),),
    is_per_frame=False,
    is_cut_by_row=True,
)
LOOP = Loop(
    stage="refine",
    engine="turn",
    count=4,
    inputs=("x",),
    carry={"y": "y_next"},
    start={"y": "x"},
    keep={"last": ("y_next", 3), "early": ("y_next", 1)},
)


class Session:
    """ONNX Runtime's, of a model that is a line of NumPy."""

    def __init__(self, before_run=lambda: None):
        self.before_run, self.steps = before_run, []

    def run(self, names, inputs):
        self.before_run()
        self.steps.append(int(inputs[STEP][0]))
        return [np.sin(inputs["y"] * 3 + inputs["x"]) + inputs[STEP].astype(np.float32)]


def rows(count):
    return {"x": np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_rows_beside_each_other_have_the_bits_of_turn_by_turn(count, threads):
    engine = OnnxRowEngine(SPEC, Session(), threads)
    kept, expected = play((LOOP,), {"turn": engine}, rows(count)), run_loop(LOOP, engine, rows(count))
    assert kept.keys() == expected.keys() == {"last", "early"}
    for name, array in kept.items():
        np.testing.assert_array_equal(array, expected[name])


def test_two_threads_are_busy_to_the_end_with_five_rows():
    # Each run waits for another one beside it: turn by turn the fifth row's would wait in vain.
    both = threading.Barrier(2, timeout=20)
    session = Session(both.wait)
    OnnxRowEngine(SPEC, session, 2).loop(LOOP, rows(5))
    assert len(session.steps) == 5 * LOOP.count
    assert session.steps[:4] == [0] * 4 and session.steps[-4:] == [3] * 4


def test_a_loop_may_be_ended_between_two_turns():
    session, turns = Session(), []

    def before_turn():
        turns.append(1)
        if len(turns) > 7:
            raise TimeoutError("enough")

    with pytest.raises(TimeoutError, match="enough"):
        OnnxRowEngine(SPEC, session, 2).loop(LOOP, rows(5), before_turn)
    assert len(session.steps) == 7
