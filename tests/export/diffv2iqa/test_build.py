"""DiffV²IQA's built engines: how near to torch they are, ε itself among it, and whether a view has one score."""

import dataclasses
import shutil

import numpy as np
import onnx
import pytest
import torch
from diffvqa_export.backends.plan_from_onnx import RTX_ARCHITECTURES
from diffvqa_export.build import build_engines
from diffvqa_export.context import BuildRequest
from diffvqa_export.weights import random_weights

from diffvqa_rt.chain import play
from diffvqa_rt.engines import Manifest, open_engines
from diffvqa_rt.metrics.diffv2iqa.engines import PIXELS, engine_specs
from diffvqa_rt.metrics.diffv2iqa.metric import METRIC
from diffvqa_rt.metrics.diffv2iqa.presets import PAPER, TINY
from diffvqa_rt.models.diffv2iqa.network import random_network

STEPS = TINY.sampler.steps


@pytest.fixture(scope="module")
def engines(diffv2iqa_engines):
    return open_engines(diffv2iqa_engines, "onnx")[1]


@pytest.fixture(scope="module")
def views() -> np.ndarray:
    """Three views, float32 [3, 3, S, S] in [−1, 1]: a ramp, an edge and noise."""
    size = TINY.view_size
    across = np.linspace(0, 255, size)
    ramp = np.broadcast_to(across, (3, size, size))
    edge = np.where(ramp > 100, 220, 30)
    noise = np.random.default_rng(0).integers(0, 256, (3, size, size))
    return PIXELS.normalize(np.stack([ramp, edge, noise]).astype(np.uint8))


def test_every_output_is_near_torchs_on_both_sources(diffv2iqa_engines):
    manifest = Manifest.read(diffv2iqa_engines)
    parity = manifest.backends["onnx"].parity
    assert parity.clip == "frog.mp4, flat grey" and parity.frames == 2
    measured = {(output.engine, output.output) for output in parity.outputs}
    assert measured == {(spec.name, output.name) for spec in engine_specs(TINY).values() for output in spec.outputs}
    assert 0 < max(output.relative_error for output in parity.outputs) < 1e-5
    assert parity.score_difference < 1e-4 * 100
    assert set(parity.row_differences.values()) == {0}
    picture, grey = parity.reference_scores.values()
    assert abs(picture - grey) > 0.1


def test_noise_itself_is_torchs(engines, views):
    # Where y = 0 the last step gives −√(1−ᾱ)/√ᾱ ε, which is far from the clamp.
    network = random_network(TINY)
    y, step = np.zeros_like(views), np.array([STEPS - 1])
    y_0 = engines["restoration_step"]({"y": y, "x": views, "step": step})["y_next"]
    with torch.inference_mode():
        alpha = float(np.cos((1 / STEPS + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2)
        gamma = torch.full((len(views),), alpha**0.5)
        epsilon = network.restorer(torch.from_numpy(views), torch.from_numpy(y), gamma).numpy()
    factor = ((1 - alpha) / alpha) ** 0.5
    assert np.abs(y_0).max() < 1
    assert np.linalg.norm(-np.asarray(y_0) / factor - epsilon) / np.linalg.norm(epsilon) < 1e-5


def test_a_view_has_one_score_whatever_is_beside_it(diffv2iqa_engines, engines, views):
    def scores(rows, engines=engines):
        return np.asarray(play(METRIC.chain(TINY), engines, {"x": rows})["view_scores"])

    together = scores(views)
    assert len(set(together.tolist())) == len(views)
    assert [scores(views[index : index + 1])[0] for index in range(3)] == together.tolist()
    assert np.array_equal(scores(views[::-1])[::-1], together)
    for threads in (1, 2):
        _, other = open_engines(diffv2iqa_engines, "onnx", threads)
        assert np.array_equal(scores(views[:2], other), together[:2])


def test_patches_add_up_to_their_branch_and_branches_to_the_score(engines, views):
    outputs = play(METRIC.chain(TINY), engines, {"x": views})
    scores, weights = np.asarray(outputs["patch_scores"]), np.asarray(outputs["patch_weights"])
    assert scores.shape == weights.shape == (3, 2, TINY.grid, TINY.grid)
    np.testing.assert_allclose(weights.sum((2, 3)), 1, rtol=1e-5)
    np.testing.assert_allclose((weights * scores).sum((2, 3)), outputs["branch_scores"], rtol=1e-5)
    np.testing.assert_allclose(100 * np.asarray(outputs["branch_scores"]).sum(1), outputs["view_scores"], rtol=1e-5)


def test_no_norm_is_left_that_could_be_folded(diffv2iqa_engines):
    step, branches = (
        onnx.load(diffv2iqa_engines / "onnx" / f"{name}.onnx", load_external_data=False) for name in engine_specs(TINY)
    )
    assert sum(node.op_type == "BatchNormalization" for node in step.graph.node) == 15
    assert not any(node.op_type == "BatchNormalization" for node in branches.graph.node)


def test_tensorrt_for_rtx_takes_both_engines_for_every_architecture(diffv2iqa_engines):
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx")
    record = Manifest.read(diffv2iqa_engines).backends["tensorrt-rtx"]
    assert record.device == ", ".join(RTX_ARCHITECTURES)
    assert {engine.file for engine in record.engines.values()} == {
        "tensorrt-rtx/restoration_step.plan",
        "tensorrt-rtx/quality_branches.plan",
    }


def build(config, backend, out, clip) -> Manifest:
    request = BuildRequest(
        weights=random_weights(config, metric="diffv2iqa"), backends=(backend,), out=out, clip=clip, metric="diffv2iqa"
    )
    return build_engines(request, progress=lambda step: None)


def with_three_steps(config):
    sampler = dataclasses.replace(config.sampler, train_steps=3, steps=3)
    return dataclasses.replace(config, sampler=sampler, kept=(1, 2))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_aot_inductor_takes_both_engines(tmp_path, clip):
    parity = build(with_three_steps(TINY), "aot-inductor", tmp_path / "tiny", clip).backends["aot-inductor"].parity
    assert parity is not None and 0 < max(output.relative_error for output in parity.outputs) < 1e-5


@pytest.mark.slow
def test_the_papers_size_is_built_in_20_gib(tmp_path, clip):
    manifest = build(with_three_steps(PAPER), "onnx", tmp_path / "paper", clip)
    parity = manifest.backends["onnx"].parity
    assert parity.score_difference < 1e-4 * 100 and parity.frames == 2
    assert manifest.build.peak_memory_bytes < 20 * 2**30
