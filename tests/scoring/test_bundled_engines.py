"""The engines that the package brings are those of the bundled weights, and score as built ones do."""

import subprocess
import sys

from diffvqa_export.weights import choose_weights
from pin_scores import score_clips

from diffvqa_rt import Scorer
from diffvqa_rt.engines.bundled import BUNDLED_ENGINES
from diffvqa_rt.engines.manifest import Manifest
from diffvqa_rt.metrics.registry import METRICS, metric_named
from diffvqa_rt.models.weights import weights_sha256

REMEDY = "build them again: see `make engines`"


def test_they_score_every_pinned_clip_as_engines_that_are_built_now(built_engines):
    assert score_clips(BUNDLED_ENGINES) == score_clips(built_engines), REMEDY


def test_they_are_of_the_bundled_weights_and_were_compared_with_torch():
    manifest = Manifest.read(BUNDLED_ENGINES)
    weights = choose_weights(manifest.metric.preset_named(manifest.config.name), None)
    assert weights.file is not None and weights.file.parent == BUNDLED_ENGINES
    assert manifest.weights.sha256 == weights_sha256(weights.load()), REMEDY
    record = manifest.backends["onnx"]
    assert record.parity is not None and not record.parity.failures
    assert weights.file.name in record.files


def test_every_preset_with_bundled_weights_has_engines():
    for name in METRICS:
        for preset in metric_named(name).presets.values():
            file = choose_weights(preset, None, metric=name).file
            assert file is None or Manifest.read(file.parent).config.name == preset.name


def test_a_file_is_scored_by_them_where_no_others_are_named(clip):
    with Scorer.open() as scorer:
        by_python = scorer.score(clip)
    assert by_python.is_trained
    command = [sys.executable, "-m", "diffvqa_rt.cli", "score", "--format", "csv", str(clip)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert repr(by_python.score) in printed
