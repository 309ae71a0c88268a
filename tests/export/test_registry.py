"""Metrics by name in the export: what a build of one depends on, and what it takes for its weights."""

import shutil

import pytest
from diffvqa_export.registry import metric_export, network_label
from diffvqa_export.sources import ROOTS, hash_sources, source_sha256
from diffvqa_export.weights import bundled_weights, choose_weights

from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.metrics.registry import METRICS, metric_named
from diffvqa_rt.models.weights import weights_sha256
from diffvqa_rt.weights_figures import figures_of


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_exports_the_engines_that_it_declares(metric):
    declared = metric_named(metric)
    for preset in declared.presets.values():
        assert list(declared.engines(preset)) == list(metric_export(metric).stages)


def test_a_wrong_name_lists_the_right_ones():
    for ask in (metric_export, metric_named):
        with pytest.raises(ValueError, match="metric is 'vmaf'; expected one of diffvqa"):
            ask("vmaf")
    with pytest.raises(ValueError, match="preset is 'huge'; expected one of tiny, "):
        metric_named("diffvqa").preset_named("huge")


def test_the_default_metrics_files_go_without_its_name():
    assert network_label("diffvqa", "tiny") == "tiny"
    assert network_label("diffv2iqa", "tiny") == "diffv2iqa-tiny"
    assert network_label("diffv2iqa", "tiny, 10 steps") == "diffv2iqa-tiny-10-steps"


@pytest.fixture
def roots(tmp_path):
    """A copy of the packages that a build's code is in."""
    copies = {name: tmp_path / name for name in ROOTS}
    for name, copy in copies.items():
        shutil.copytree(ROOTS[name], copy, ignore=lambda folder, files: {f for f in files if f in ("weights", "build")})
    return copies


@pytest.mark.parametrize(
    "file", ["diffvqa_rt/models/{}/new.py", "diffvqa_rt/metrics/{}/new.py", "diffvqa_export/{}/new.py"]
)
def test_a_builds_steps_depend_on_its_own_metric(roots, file):
    before = hash_sources("diffvqa", roots)
    assert before == source_sha256("diffvqa")
    package, _, path = file.partition("/")
    for metric, is_own in (("diffv2iqa", False), ("diffvqa", True)):
        new = roots[package] / path.format(metric)
        new.parent.mkdir(exist_ok=True)
        new.write_text("")
        assert (hash_sources("diffvqa", roots) != before) == is_own


@pytest.mark.parametrize(
    "file",
    [
        "diffvqa_rt/models/new.py",
        "diffvqa_rt/specs.py",
        "diffvqa_kernels/selective_scan/new.py",
        "diffvqa_export/new.py",
        "diffvqa_export/backends/new.py",
    ],
)
def test_a_builds_steps_depend_on_what_metrics_share(roots, file):
    before = hash_sources("diffvqa", roots)
    package, _, path = file.partition("/")
    (roots[package] / path).write_text("")
    assert hash_sources("diffvqa", roots) != before


def test_bundled_weights_are_found_by_metric_and_preset(tmp_path):
    assert bundled_weights("tiny", folder=tmp_path) is None
    bare, full, other = (tmp_path / name / f"{name}.safetensors" for name in ("tiny", "diffvqa-tiny", "diffv2iqa-tiny"))
    for path in (bare, full, other):
        path.parent.mkdir()
    bare.touch()
    assert bundled_weights("tiny", folder=tmp_path) == bare
    assert bundled_weights("tiny", metric="diffv2iqa", folder=tmp_path) is None
    full.touch()
    assert bundled_weights("tiny", folder=tmp_path) == full
    other.touch()
    assert bundled_weights("tiny", metric="diffv2iqa", folder=tmp_path) == other


def test_the_bundled_weights_keep_their_name():
    assert choose_weights(TINY, None).source == "tiny.safetensors"


@pytest.mark.parametrize("metric", METRICS)
def test_bundled_weights_are_of_the_preset_that_they_are_named_after(metric):
    for name, preset in metric_named(metric).presets.items():
        if bundled_weights(name, metric=metric) is not None:
            chosen = choose_weights(preset, None, metric=metric)
            assert chosen.is_trained and chosen.config == preset


@pytest.mark.parametrize("metric", METRICS)
def test_bundled_figures_are_of_the_bundled_weights(metric):
    for name, preset in metric_named(metric).presets.items():
        if figures := figures_of(metric, name):
            assert figures.weights_sha256 == weights_sha256(choose_weights(preset, None, metric=metric).load())
