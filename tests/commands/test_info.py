"""`diffvqa info`: the networks that can be built, and what weights reach and cost, where that was measured."""

import json

import pytest

from diffvqa_rt import cli, weights_figures
from diffvqa_rt.engines import Manifest
from diffvqa_rt.metrics.registry import METRICS, metric_named

MEASURED = {
    "metric": "diffvqa",
    "network": "tiny",
    "weights_sha256": "0" * 64,
    "srcc": 0.8731,
    "srcc_of": "with the label, 33 contents",
    "seconds_a_video": 1.1666,
    "seconds_of": "5 s of 720×480, two cores",
}
LINES = [
    "reaches   SRCC 0.873 (with the label, 33 contents)",
    "costs     1.17 s a video (5 s of 720×480, two cores)",
]


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Writes what was measured, in the place of what the package brings."""
    monkeypatch.setattr(weights_figures, "FILE", tmp_path / "figures.json")
    return lambda *figures: weights_figures.FILE.write_text(json.dumps(figures))


def info(capsys, *arguments: object) -> list[str]:
    assert cli.main(["info", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def test_without_a_folder_every_network_is_a_line(measured, capsys):
    presets = [(metric, name) for metric in METRICS for name in metric_named(metric).presets]
    lines = info(capsys)
    assert [line.split(":")[0] for line in lines] == [f"--metric {metric} --preset {name}" for metric, name in presets]
    assert "10 denoising steps" in lines[0]


def test_a_network_is_listed_with_what_its_weights_reach_and_cost(measured, capsys):
    measured({**MEASURED, "metric": "diffv2iqa"}, MEASURED)
    lines = info(capsys)
    assert lines[1:3] == [f"  {line}" for line in LINES] and lines[3].startswith("--metric diffvqa --preset ")
    assert sum("reaches" in line for line in lines) == 2


def test_an_engine_folder_shows_the_figures_of_its_own_weights_alone(measured, untrained_engines, capsys):
    manifest = Manifest.read(untrained_engines)
    plain = info(capsys, untrained_engines)
    assert not any(line.startswith(("reaches", "costs")) for line in plain)
    own = {**MEASURED, "network": "tiny, 2 steps", "weights_sha256": manifest.weights.sha256}
    measured({**own, "weights_sha256": "0" * 64}, {**own, "network": "tiny"}, {**own, "metric": "aigc_vqa"})
    assert info(capsys, untrained_engines) == plain
    measured(own)
    shown = info(capsys, untrained_engines)
    assert shown == [*plain[:2], *LINES, *plain[2:]]


@pytest.mark.parametrize(("change", "complaint"), [({"srcc": 87.3}, "srcc is 87.3"), ({"seconds_a_video": 0}, "is 0")])
def test_figures_that_cannot_be_are_refused(measured, change, complaint):
    measured({**MEASURED, **change})
    with pytest.raises(ValueError, match=complaint):
        weights_figures.figures_of("diffvqa", "tiny")
