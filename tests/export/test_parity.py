"""The comparison with torch: no tolerance lets a NaN pass, or a row that depends on its slot."""

import dataclasses
import json
import re

import numpy as np
import pytest
from diffvqa_export.diffvqa.stages import STAGES
from diffvqa_export.parity import measure_parity, refuse_dead_network, worst_of
from diffvqa_export.reference import Reference, record_reference
from training_network import SMALLEST

from diffvqa_rt.engines import open_engines
from diffvqa_rt.engines.manifest import OutputParity, ParityReport, parity_from_dict
from diffvqa_rt.errors import ParityError
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.metrics.diffvqa.presets import TINY
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


def test_errors_are_relative_to_outputs_of_a_least_size(engines, reference):
    """Of a stage whose output is one number, which may be near 0."""
    (plain,) = (output for output in compare(engines, reference).outputs if output.output == "z0")
    floor = dataclasses.replace(STAGES["vae_encoder"], error_floor=1e3)
    report = measure_parity(
        engines, reference, METRIC, SMALLEST, {**STAGES, "vae_encoder": floor}, "fp32", "frog.mp4", frames=2
    )
    (found,) = (output for output in report.outputs if output.output == "z0")
    assert found.max_error == plain.max_error
    (expected,) = (outputs["z0"][:, :2] for name, _, outputs in reference.calls() if name == "vae_encoder")
    size = np.sqrt(np.square(expected.astype(np.float64)).mean())
    assert size < 1e3
    assert found.relative_error == pytest.approx(plain.relative_error * size / 1e3)


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


def report_of(clip: str, **changes) -> ParityReport:
    found = {"error": 1e-7, "row": 0.0, "score": 50.0} | changes
    output = OutputParity(
        engine="head", output="score", max_error=1e-3, relative_error=found["error"], not_finite=0, tolerance=1e-5
    )
    return ParityReport(
        clip=clip,
        frames=2,
        outputs=(output,),
        row_differences={"head": found["row"]},
        score=found["score"],
        reference_score=50.0,
        score_tolerance=0.01,
    )


@pytest.mark.parametrize(
    "broken", [{"error": np.inf}, {"error": 1e-4}, {"row": np.nan}, {"row": 1e-9}, {"score": np.nan}, {"score": 51.0}]
)
def test_what_one_source_shows_is_in_the_report_on_all(broken):
    good = [report_of(name) for name in ("photo.png", "grey", "ramp")]
    report = worst_of(good)
    assert not report.failures and report.clip == "photo.png, grey, ramp" and report.frames == 6
    assert report.reference_scores == {"photo.png": 50.0, "grey": 50.0, "ramp": 50.0}
    for place in range(3):
        reports = list(good)
        reports[place] = report_of(good[place].clip, **broken)
        assert len(worst_of(reports).failures) == 1


def test_the_report_on_one_source_is_its_own_and_reads_as_before_there_were_several():
    report = worst_of([report_of("frog.mp4")])
    assert report == report_of("frog.mp4")
    values = json.loads(json.dumps(dataclasses.asdict(report)))
    assert values.pop("reference_scores") == {}
    assert parity_from_dict(values) == report


@pytest.mark.parametrize("other", [50.0, 50.009, np.nan])
def test_one_score_for_two_sources_is_no_score(other):
    refuse_dead_network({"frog.mp4": 50.0}, TINY)
    refuse_dead_network({"frog.mp4": 50.0, "grey": 50.02}, TINY)
    with pytest.raises(ParityError, match="tiny gives frog.mp4 and grey one score .* look at its weights"):
        refuse_dead_network({"frog.mp4": 50.0, "ramp": 60.0, "grey": other}, TINY)
