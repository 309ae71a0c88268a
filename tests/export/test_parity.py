"""The comparison with torch: no tolerance lets a NaN pass, or a row that depends on its slot."""

import re

import numpy as np
import pytest
from diffvqa_export.diffvqa.stages import STAGES
from diffvqa_export.parity import measure_parity
from diffvqa_export.reference import Reference, record_reference
from training_network import SMALLEST

from diffvqa_rt.engines import open_engines
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.preparation import prepare_frames
from diffvqa_rt.video import sample_frames


@pytest.fixture(scope="module")
def engines(small_engines):
    return open_engines(small_engines, "onnx")[1]


@pytest.fixture(scope="module")
def reference(small_engines, clip, tmp_path_factory) -> Reference:
    """What torch computes on the clip."""
    path = tmp_path_factory.mktemp("reference") / "frog.npz"
    given = prepare_frames(sample_frames(clip, SMALLEST.frames), METRIC, SMALLEST, Request(), 0)
    record_reference(METRIC, SMALLEST, open_engines(small_engines, "torch")[1], given, path)
    return Reference(path)


def compare(engines, reference):
    return measure_parity(engines, reference, METRIC, SMALLEST, STAGES, "fp32", "frog.mp4", frames=2)


def test_engines_that_are_not_broken_pass(engines, reference):
    assert compare(engines, reference).failures == []


def test_an_output_that_is_not_a_number_passes_no_tolerance(engines, reference):
    class Broken:
        max_videos = None

        def __init__(self, engine):
            self.spec, self._engine = engine.spec, engine

        def __call__(self, inputs, outputs=None):
            results = self._engine(inputs, outputs)
            return {name: np.full_like(values, np.nan) for name, values in results.items()}

    report = compare({**engines, "head": Broken(engines["head"])}, reference)
    assert any("head's score is off by inf" in f and "1 of its values are not finite" in f for f in report.failures)
    assert any(failure.startswith("the score is nan") for failure in report.failures)


@pytest.mark.parametrize(
    ("change", "difference"),
    [(lambda row: np.nextafter(row, np.inf), r"\d"), (lambda row: row * np.nan, "nan")],
    ids=["last_bit", "nan"],
)
def test_an_engine_whose_rows_differ_passes_no_tolerance(engines, reference, change, difference):
    class SeesTheBatch:
        max_videos = None

        def __init__(self, engine):
            self.spec, self._engine = engine.spec, engine

        def __call__(self, inputs, outputs=None):
            results = self._engine(inputs, outputs)
            return {n: np.concatenate([v[:1], change(v[1:])]) for n, v in results.items()}

    report = compare({**engines, "vae_encoder": SeesTheBatch(engines["vae_encoder"])}, reference)
    (failure,) = report.failures
    assert re.match(rf"vae_encoder gives a video another result in another slot of a batch \(by {difference}", failure)
