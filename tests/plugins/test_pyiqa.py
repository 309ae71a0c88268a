"""The metrics in pyiqa, where that is installed with the packages that it imports: the scores of `Scorer`."""

import importlib.metadata
import importlib.util
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from vision_oracles import import_torchvision

from diffvqa_rt import Scorer
from diffvqa_rt.metrics.registry import METRICS

ROOT = Path(__file__).parents[2]
GROUP, NAME = "pyiqa.archs", "diffvqa_rt"


@pytest.fixture(scope="module")
def pyiqa():
    if importlib.util.find_spec("pyiqa") is None:
        pytest.skip("pyiqa is not installed")
    import_torchvision()
    return pytest.importorskip("pyiqa", reason="pyiqa is not installed", exc_type=ImportError)


@pytest.fixture
def picture() -> torch.Tensor:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 40, 60, 3), np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def test_the_entry_point_is_that_of_pyproject():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert groups == {GROUP: {NAME: "diffvqa_rt.plugins.pyiqa:register"}}


def test_pyiqa_knows_the_metrics_once_they_are_registered(pyiqa):
    from diffvqa_rt.plugins.pyiqa import register

    register()
    register()
    assert set(METRICS) <= set(pyiqa.list_models("NR"))


def test_a_network_of_the_entry_point_is_built_by_its_type(pyiqa, small_engines, monkeypatch):
    from pyiqa.archs import build_network
    from pyiqa.utils import registry

    from diffvqa_rt.plugins.pyiqa import NETWORK

    point = importlib.metadata.EntryPoint(NAME, "diffvqa_rt.plugins.pyiqa:register", GROUP)
    points = importlib.metadata.EntryPoints([point])
    monkeypatch.setattr(registry.importlib_metadata, "entry_points", lambda: points)
    fresh = registry.Registry("arch", entry_point_group=GROUP)
    monkeypatch.setattr("pyiqa.archs.ARCH_REGISTRY", fresh)
    monkeypatch.setattr("diffvqa_rt.plugins.pyiqa.ARCH_REGISTRY", fresh)
    network = build_network({"type": NETWORK, "metric": "diffvqa", "engines": str(small_engines)})
    assert network(torch.zeros(1, 3, 40, 60)).shape == (1, 1)


def test_a_score_is_that_of_the_scorer(pyiqa, small_engines, picture, tmp_path):
    from PIL import Image

    from diffvqa_rt.plugins.pyiqa import register

    register()
    metric = pyiqa.create_metric("diffvqa", engines=small_engines, crop_seed=3, device="cpu")
    frames = picture.permute(0, 2, 3, 1).numpy()
    with Scorer.open(small_engines) as scorer:
        expected = [scorer.score(pixels[None], seed=3).score for pixels in frames]
    assert metric(picture.float() / 255).tolist() == [[score] for score in expected]
    Image.fromarray(frames[0]).save(tmp_path / "picture.png")
    assert metric(str(tmp_path / "picture.png")).tolist() == [[expected[0]]]
    assert not metric.lower_better and metric.score_range == "0, 100"


def test_misuse_is_a_sentence(pyiqa, small_engines):
    from diffvqa_rt.plugins.pyiqa import register

    register()
    with pytest.raises(TypeError, match="engines is missing; give the engine folder"):
        pyiqa.create_metric("diffvqa", device="cpu")
    with pytest.raises(ValueError, match="which is of diffvqa; expected engines of diffv2iqa"):
        pyiqa.create_metric("diffv2iqa", engines=small_engines, device="cpu")
