"""An ONNX engine whose rows are work enough for a thread plays a loop row by row, and no bit depends on that."""

import threading

import numpy as np
import pytest

from diffvqa_rt.chain import Loop, play, run_loop
from diffvqa_rt.engines.onnx_backend import OnnxEngine, OnnxRowEngine
from diffvqa_rt.specs import EngineSpec, TensorSpec

ROWS = ("videos", 2)
SPEC = EngineSpec(
    "turn",
    inputs=(TensorSpec("y", "float32", ROWS), TensorSpec("x", "float32", ROWS), TensorSpec("step", "int64", (1,))),
    outputs=(TensorSpec("y_next", "float32", ROWS),),
    is_per_frame=False,
    is_cut_by_row=True,
)
LOOP = Loop(
    stage="turns",
    engine="turn",
    count=4,
    inputs=("x",),
    carry={"y": "y_next"},
    start={"y": "x"},
    keep={"y_first": ("y_next", 0), "y_last": ("y_next", 3)},
)


class Session:
    """What ONNX Runtime's session does for an engine, in NumPy; it notes the rows and the threads."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.threads: set[int] = set()
        self.fails_at: int | None = None

    def run(self, names, inputs):
        self.rows.append(len(inputs["y"]))
        self.threads.add(threading.get_ident())
        if inputs["step"][0] == self.fails_at:
            raise IndexError("of the runtime's own")
        return [(0.7 * inputs["y"] + (inputs["step"][0] + 1) * inputs["x"]).astype(np.float32)]


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).random((5, 2), np.float32)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_rows_are_played_by_themselves_with_the_same_bits(x, threads):
    session = Session()
    engine = OnnxRowEngine(SPEC, session, threads)
    found = engine.loop(LOOP, {"x": x})
    expected = run_loop(LOOP, OnnxEngine(SPEC, Session(), 1), {"x": x})
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    assert session.rows == [1] * 20 and len(session.threads) <= threads


def test_a_chain_plays_it_and_may_end_it_between_turns(x):
    session = Session()
    turns = iter(range(6))

    def before_turn():
        if next(turns) == 5:
            raise TimeoutError("nobody waits any more")

    with pytest.raises(TimeoutError, match="nobody waits"):
        play((LOOP,), {"turn": OnnxRowEngine(SPEC, session, 1)}, {"x": x}, before_turn=before_turn)
    assert len(session.rows) == 5


@pytest.mark.parametrize("threads", [1, 3])
def test_a_failure_of_the_runtime_reaches_the_caller(x, threads):
    session = Session()
    session.fails_at = 2
    with pytest.raises(IndexError, match="of the runtime's own"):
        OnnxRowEngine(SPEC, session, threads).loop(LOOP, {"x": x})


@pytest.mark.parametrize(("threads", "frames"), [(1, [2, 2, 2]), (2, [2, 2, 2]), (4, [1, 2, 1, 2])])
def test_large_frames_are_run_a_few_at_a_time(threads, frames):
    border = ("videos", "frames", 3, 192, 192)
    spec = EngineSpec(
        "encoder",
        inputs=(TensorSpec("pixels", "float32", border),),
        outputs=(TensorSpec("x", "float32", border),),
        is_per_frame=True,
    )
    seen = []

    class Doubling:
        def run(self, names, inputs):
            seen.append(inputs["pixels"].shape[1])
            return [2 * inputs["pixels"]]

    pixels = np.random.default_rng(0).random((1, 6, 3, 192, 192), np.float32)
    np.testing.assert_array_equal(OnnxEngine(spec, Doubling(), threads)({"pixels": pixels})["x"], 2 * pixels)
    assert sorted(seen) == sorted(frames)
