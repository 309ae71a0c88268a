"""The comparison with torch: no tolerance lets a NaN pass, or a row that depends on its slot."""

import re

import numpy as np
import pytest
from diffvqa_export.diffvqa.stages import STAGES
from diffvqa_export.parity import measure_parity
from diffvqa_export.reference import Reference, record_reference
from diffvqa_export.weights import choose_weights

from diffvqa_rt.engines import open_engines
from diffvqa_rt.engines.torch_backend import torch_engines
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.diffvqa.engines import engine_specs
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.models.diffvqa.stages import stage_modules
from diffvqa_rt.preparation import prepare_frames
from diffvqa_rt.video import sample_frames


def test_an_output_that_is_not_a_number_passes_no_tolerance(built_engines, clip, tmp_path):
    class Broken:
        max_videos = None

        def __init__(self, engine):
            self.spec, self._engine = engine.spec, engine

        def __call__(self, inputs, outputs=None):
            results = self._engine(inputs, outputs)
            return {name: np.full_like(values, np.nan) for name, values in results.items()}

    _, engines = open_engines(built_engines, "onnx")
    given = prepare_frames(sample_frames(clip, TINY.frames), METRIC, TINY, Request(), 0)
    reference = torch_engines(engine_specs(TINY), stage_modules(choose_weights(TINY, None).load()))
    record_reference(METRIC, TINY, reference, given, tmp_path)
    broken = {**engines, "head": Broken(engines["head"])}
    report = measure_parity(broken, Reference(tmp_path), METRIC, TINY, STAGES, "fp32", clip.name, frames=2)
    assert any("head's score is off by inf" in f and "1 of its values are not finite" in f for f in report.failures)
    assert any(failure.startswith("the score is nan") for failure in report.failures)


@pytest.mark.parametrize(
    ("change", "difference"),
    [(lambda row: np.nextafter(row, np.inf), r"\d"), (lambda row: row * np.nan, "nan")],
    ids=["last_bit", "nan"],
)
def test_an_engine_whose_rows_differ_passes_no_tolerance(built_engines, clip, tmp_path, change, difference):
    class SeesTheBatch:
        max_videos = None

        def __init__(self, engine):
            self.spec, self._engine = engine.spec, engine

        def __call__(self, inputs, outputs=None):
            results = self._engine(inputs, outputs)
            return {n: np.concatenate([v[:1], change(v[1:])]) for n, v in results.items()}

    _, engines = open_engines(built_engines, "onnx")
    given = prepare_frames(sample_frames(clip, TINY.frames), METRIC, TINY, Request(), 0)
    reference = torch_engines(engine_specs(TINY), stage_modules(choose_weights(TINY, None).load()))
    record_reference(METRIC, TINY, reference, given, tmp_path)
    broken = {**engines, "vae_encoder": SeesTheBatch(engines["vae_encoder"])}
    report = measure_parity(broken, Reference(tmp_path), METRIC, TINY, STAGES, "fp32", clip.name, frames=2)
    (failure,) = report.failures
    assert re.match(rf"vae_encoder gives a video another result in another slot of a batch \(by {difference}", failure)
