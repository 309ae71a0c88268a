"""DiffV²IQA's declaration for the export: what stays in float32, foreign weights, and the network that is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from diffvqa_export.build import build_engines
from diffvqa_export.context import BuildRequest
from diffvqa_export.diffv2iqa.stages import EXPORT, STAGES
from diffvqa_export.precision import write_precision
from diffvqa_export.weights import choose_weights, random_weights
from sr3_network import random_checkpoint

from diffvqa_rt.errors import ParityError
from diffvqa_rt.metrics.diffv2iqa.config import RestorerConfig
from diffvqa_rt.metrics.diffv2iqa.presets import TINY
from diffvqa_rt.models.diffv2iqa.network import random_network
from diffvqa_rt.models.diffv2iqa.stages import stage_modules
from diffvqa_rt.models.weights import save_weights, weights_sha256

SMALL = dataclasses.replace(
    TINY,
    view_size=64,
    sampler=dataclasses.replace(TINY.sampler, train_steps=3, steps=3),
    kept=(1, 2),
    restorer=RestorerConfig(channels=(8, 8, 16, 16), blocks=1, norm_groups=4),
)


def half_precision(name: str, precision: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A stage in float32 and in another precision."""
    full, half = (stage_modules(random_network(SMALL))[name] for _ in range(2))
    write_precision(STAGES[name], half, precision)
    return full, half


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("precision", "rounding"), [("fp16", 2**-11), ("bf16", 2**-8)])
@torch.inference_mode()
def test_a_step_in_half_precision_names_nearly_the_same_noise(precision, rounding):
    full, half = half_precision("restoration_step", precision)
    x, y = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected, actual = (module.unet(x, y, module.shifts[1:2]) for module in (full, half))
    assert actual.dtype == torch.float32
    assert rounding / 10 < relative_error(actual, expected) < 10 * rounding


def test_the_sampler_the_ends_and_the_branches_stay_in_float32():
    _, step = half_precision("restoration_step", "fp16")
    full = {name.rpartition(".")[0] for name, tensor in step.named_parameters() if tensor.dtype == torch.float32}
    assert full == {"unet.conv_in", "unet.norm_out", "unet.conv_out"}
    tables = (step.coefficients, step.initial_noise, step.step_noise, step.shifts)
    assert {table.dtype for table in tables} == {torch.float32}
    _, branches = half_precision("quality_branches", "fp16")
    assert {parameter.dtype for parameter in branches.parameters()} == {torch.float32}


@pytest.fixture
def checkpoints(tmp_path):
    """A folder of foreign weights for SMALL, and the network that they were taken from."""
    network = random_network(SMALL, seed=7)
    folder = tmp_path / "pretrained"
    folder.mkdir()
    torch.save(random_checkpoint(SMALL.restorer), folder / "restorer.pth")
    torch.save({**network.vit.state_dict(), "norm.weight": torch.ones(96)}, folder / "vit.pth")
    torch.save({**network.resnet.state_dict(), "fc.weight": torch.ones(1000, 512)}, folder / "resnet50.pth")
    return folder, network


def test_a_folder_of_checkpoints_fills_the_restorer_and_the_encoders(checkpoints):
    folder, taken_from = checkpoints
    chosen = choose_weights(SMALL, folder, metric="diffv2iqa")
    assert chosen.source == "pretrained, with random branches" and not chosen.is_trained
    network = chosen.load()
    for part in ("vit", "resnet"):
        expected = getattr(taken_from, part).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in getattr(network, part).state_dict().items())
    conv_in = random_checkpoint(SMALL.restorer)["denoise_fn.downs.0.weight"]
    assert torch.equal(network.restorer.unet.conv_in.weight, conv_in)


@pytest.mark.parametrize("part", ["restorer", "vit", "resnet50"])
def test_a_folder_without_a_checkpoint_is_refused_in_a_sentence(checkpoints, part):
    folder, _ = checkpoints
    (folder / f"{part}.pth").unlink()
    with pytest.raises(ValueError, match=f"pretrained has no {part}.safetensors or {part}.pth; expected"):
        choose_weights(SMALL, folder, metric="diffv2iqa")


def test_a_network_without_a_branch_needs_no_encoder_for_it(checkpoints):
    folder, _ = checkpoints
    (folder / "resnet50.pth").unlink()
    network = choose_weights(dataclasses.replace(SMALL, branches="vcg"), folder, metric="diffv2iqa").load()
    assert network.vit is not None and network.resnet is None


def test_a_dead_network_is_refused_and_nothing_is_written(tmp_path, clip):
    def load():
        network = random_network(SMALL)
        for branch in (network.vcg, network.vda):
            torch.nn.init.zeros_(branch.head.score[-1].weight)  # each patch's score is then the bias
        return network

    weights = dataclasses.replace(random_weights(SMALL, metric="diffv2iqa"), load=load)
    request = BuildRequest(weights=weights, backends=("onnx",), out=tmp_path / "dead", clip=clip, metric="diffv2iqa")
    sentence = r"tiny gives frog.mp4 and flat grey one score \(50.0000 and 50.0000\), so its engines cannot be judged"
    with pytest.raises(ParityError, match=sentence):
        build_engines(request, progress=lambda step: None)
    assert not (tmp_path / "dead").exists()


def test_parity_is_measured_on_a_picture_and_on_flat_grey(clip):
    sources = {name: source.frames for name, source in EXPORT.parity_sources(SMALL, clip).items()}
    assert list(sources) == ["frog.mp4", "flat grey"]
    assert all(len(source.frames) == 1 for source in sources.values())
    assert np.ptp(sources["flat grey"].frames[0]) == 0 < np.ptp(sources["frog.mp4"].frames[0])


def test_our_own_file_is_read_for_what_it_holds(tmp_path):
    network = random_network(SMALL, seed=3)
    save_weights(network, tmp_path / "w.safetensors", is_trained=True)
    chosen = choose_weights(TINY, tmp_path / "w.safetensors", metric="diffv2iqa")
    assert chosen.config == SMALL and chosen.is_trained
    assert weights_sha256(chosen.load()) == weights_sha256(network)
