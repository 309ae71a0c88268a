"""What repeats runs once: a chain's equal frames and rows, on engines whose bits do not depend on what runs beside."""

import numpy as np
import pytest

from diffvqa_rt.chain import STEP, Call, Loop, play
from diffvqa_rt.repeats import Repeats
from diffvqa_rt.specs import EngineSpec, PixelScale, TensorSpec

PIXELS = ("videos", "frames", 3, 2, 2)
LATENT = ("videos", "frames", 3)
SCALE = PixelScale(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
ENCODER = EngineSpec(
    "encoder",
    inputs=(TensorSpec("pixels", "float32", PIXELS),),
    outputs=(TensorSpec("x", "float32", LATENT),),
    is_per_frame=True,
    pixels={"pixels": SCALE},
)
TURN = EngineSpec(
    "turn",
    inputs=(TensorSpec("y", "float32", LATENT), TensorSpec("x", "float32", LATENT), TensorSpec(STEP, "int64", (1,))),
    outputs=(TensorSpec("y_next", "float32", LATENT),),
    is_per_frame=True,
)
CHAIN = (
    Call(engine="encoder", inputs=("pixels",), outputs=("x",)),
    Loop(
        stage="refine",
        engine="turn",
        count=3,
        inputs=("x",),
        carry={"y": "y_next"},
        start={"y": "x"},
        keep={"first": ("y_next", 0), "last": ("y_next", 2)},
    ),
)


class Rowwise:
    """One of the two; `items` has the numbers of rows and frames of each run."""

    max_videos = None

    def __init__(self, spec, is_rowwise=True):
        self.spec, self.is_rowwise = spec, is_rowwise
        self.items = []

    def __call__(self, inputs, outputs=None):
        self.spec.check_inputs(inputs)
        self.items.append(inputs[self.spec.inputs[0].name].shape[:2])
        if self.spec is ENCODER:
            return {"x": inputs["pixels"].mean((3, 4))}
        return {"y_next": inputs["y"] * np.float32(0.7) + inputs["x"] * (inputs[STEP][0] + 1).astype(np.float32)}


def run(pixels, *, is_rowwise=True, observe=None):
    engines = {spec.name: Rowwise(spec, is_rowwise) for spec in (ENCODER, TURN)}
    outputs = play(CHAIN, engines, {"pixels": pixels}, observe=observe)
    return outputs, engines["encoder"].items, engines["turn"].items


def video(*numbers: int) -> np.ndarray:
    """A video of one row: its frames, each picked by a number."""
    drawn = np.random.default_rng(0).integers(0, 256, (8, 3, 2, 2), np.uint8)
    return drawn[list(numbers)][None]


@pytest.mark.parametrize(
    ("pixels", "distinct"),
    [
        (video(0, 1, 0, 1, 0, 1), 2),  # a still, of two views a frame
        (video(0, 1, 2, 2, 2, 3), 4),  # a freeze
        (video(4, 5, 6, 4), 3),  # a scene that comes back
        (np.concatenate([video(0, 1, 2), video(0, 3, 2)]), 4),  # rows that share a view, as crops of a video do
    ],
    ids=["still", "freeze", "scene", "crops"],
)
def test_equal_frames_of_all_rows_run_once_with_the_same_bits(pixels, distinct):
    outputs, encoder, turn = run(pixels)
    expected, *_ = run(pixels, is_rowwise=False)
    assert encoder == [(1, distinct)] and turn == [(1, distinct)] * 3
    assert outputs.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(outputs[name], values)


def test_frames_that_differ_run_as_they_are():
    outputs, encoder, turn = run(video(0, 1, 2))
    assert encoder == [(1, 3)] and turn == [(1, 3)] * 3
    assert outputs["last"].shape == (1, 3, 3)


def test_an_engine_that_does_not_say_that_it_is_rowwise_runs_all_frames():
    _, encoder, _ = run(video(0, 0), is_rowwise=False)
    assert encoder == [(1, 2)]


def test_an_observer_sees_all_frames():
    seen = []
    run(video(0, 0), observe=lambda engine, inputs, outputs: seen.append((engine, inputs.get("pixels", 0))))
    assert [engine for engine, _ in seen] == ["encoder", "turn", "turn", "turn"]
    assert seen[0][1].shape[:2] == (1, 2)


def test_rows_are_equal_where_they_are_in_all_arrays():
    one, other = np.array([[1.0], [1.0], [1.0]]), np.array([[2], [3], [2]])
    repeats = Repeats.among([one, other], axes=1)
    assert repeats is not None and (repeats.firsts, repeats.places) == ([0, 1], [0, 1, 0])
    np.testing.assert_array_equal(repeats.all_of(repeats.once(other)), other)
    assert Repeats.among([one[:2], other[:2]], axes=1) is None and Repeats.among([one[:1]], axes=1) is None
    # What an engine makes of them may differ.
    assert Repeats.among([np.array([[0.0], [-0.0]])], axes=1) is None
