"""The restoration network beside a plain one in float64, and SR3's checkpoints, on small random ones."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file
from sr3_network import noise_of, random_checkpoint

from diffvqa_rt.metrics.diffv2iqa.config import RestorerConfig
from diffvqa_rt.metrics.diffv2iqa.presets import PAPER, TINY
from diffvqa_rt.models.diffv2iqa.restorer import Attention, Restorer
from diffvqa_rt.models.diffv2iqa.sr3 import load_sr3

SMALL = RestorerConfig(channels=(8, 8, 16, 16), blocks=1, norm_groups=4)
CONFIGS = {
    "batch": SMALL,
    "group": dataclasses.replace(SMALL, norm="group"),
    "five levels of two blocks": dataclasses.replace(SMALL, channels=(8, 8, 16, 16, 24), blocks=2),
}


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def loaded(config: RestorerConfig, path, **changes: torch.Tensor | None) -> Restorer:
    """The restorer from a random checkpoint at `path`, with other tensors or without those that are None."""
    weights = random_checkpoint(config) | changes
    torch.save({name: tensor for name, tensor in weights.items() if tensor is not None}, path)
    restorer = Restorer(config)
    load_sr3(restorer, path)
    return restorer.eval()


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_noise_equals_a_plain_networks_in_float64(name, tmp_path):
    config = CONFIGS[name]
    restorer = loaded(config, tmp_path / "gen.pth").double()
    x, y = torch.rand(2, 3, 3, 32, 48, dtype=torch.float64) * 2 - 1
    gamma = torch.tensor([0.001, 0.5, 0.99], dtype=torch.float64)
    expected = noise_of(random_checkpoint(config), config, x, y, gamma)
    assert expected.std() > 0.1
    # Not to float64's bits: the attention's softmax is in float32, whatever runs around it.
    assert relative_error(restorer(x, y, gamma), expected) < 5e-6


@pytest.mark.parametrize(
    ("preset", "parameters", "statistics", "attended"),
    [(PAPER, 97_807_491, 47_744, 6), (TINY, 1_051_571, 3_776, 4)],
    ids=["paper", "tiny"],
)
def test_sizes_are_those_of_sr3_with_either_norm(preset, parameters, statistics, attended):
    with torch.device("meta"):
        batch, group = (Restorer(dataclasses.replace(preset.restorer, norm=norm)) for norm in ("batch", "group"))
    for restorer in (batch, group):
        assert sum(parameter.numel() for parameter in restorer.parameters()) == parameters
        assert sum(isinstance(module, Attention) for module in restorer.modules()) == attended
    assert sum(buffer.numel() for buffer in batch.buffers() if buffer.ndim) == statistics
    assert not list(group.buffers())


@torch.inference_mode()
def test_training_crops_and_views_go_through_one_network():
    restorer = Restorer(SMALL).eval()
    for height, width in ((64, 64), (96, 96), (8, 16)):
        x = torch.zeros(1, 3, height, width)
        assert restorer(x, x, torch.tensor([0.5])).shape == x.shape


@torch.no_grad()
def test_dropout_is_there_in_training_alone():
    restorer = Restorer(dataclasses.replace(SMALL, norm="group"))
    x, y = torch.rand(2, 1, 3, 32, 32)
    gamma = torch.tensor([0.5])
    assert not torch.equal(restorer(x, y, gamma), restorer(x, y, gamma))
    restorer.eval()
    assert torch.equal(restorer(x, y, gamma), restorer(x, y, gamma))
    assert {module.p for module in restorer.modules() if isinstance(module, torch.nn.Dropout)} == {0.2}


@torch.inference_mode()
def test_noise_level_is_one_for_each_picture():
    restorer = Restorer(SMALL).eval()
    x, y = (torch.rand(1, 3, 32, 32).expand(2, -1, -1, -1) for _ in range(2))
    low, high = restorer(x, y, torch.tensor([0.1, 0.9]))
    torch.testing.assert_close(restorer(x[:1], y[:1], torch.tensor([0.9]))[0], high)
    assert (low - high).abs().max() > 1e-3


def test_a_checkpoint_may_be_safetensors(tmp_path):
    save_file(random_checkpoint(SMALL), tmp_path / "gen.safetensors")
    from_safetensors = Restorer(SMALL)
    load_sr3(from_safetensors, tmp_path / "gen.safetensors")
    from_pickle = loaded(SMALL, tmp_path / "gen.pth").state_dict()
    assert all(torch.equal(tensor, from_pickle[name]) for name, tensor in from_safetensors.state_dict().items())


@pytest.mark.parametrize(
    ("written", "read", "complaint"),
    [
        ("group", "batch", 'GroupNorm network, without the running statistics .* norm="group"'),
        ("batch", "group", 'BatchNorm network; .* norm="batch"'),
    ],
)
def test_a_checkpoint_with_the_other_norm_is_refused(written, read, complaint, tmp_path):
    torch.save(random_checkpoint(CONFIGS[written]), tmp_path / "gen.pth")
    with pytest.raises(ValueError, match=complaint):
        load_sr3(Restorer(CONFIGS[read]), tmp_path / "gen.pth")


SHIFT = "denoise_fn.mid.0.res_block.noise_func.noise_func.0.weight"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"denoise_fn.ups.1.attn.qkv.weight": None}, "Missing key.*ups.1.attention.qkv.weight"),
        ({"denoise_fn.ups.99.conv.weight": torch.zeros(1)}, "Unexpected key.*ups.99.conv.weight"),
        ({"denoise_fn.downs.0.weight": torch.zeros(8, 3, 3, 3)}, "size mismatch for unet.conv_in.weight"),
        ({SHIFT: None}, "size mismatch for noise_level.to_shifts.weight"),
    ],
    ids=["missing", "unknown", "unconditional", "without a noise level"],
)
def test_a_checkpoint_of_another_network_is_refused_in_a_sentence(changes, complaint, tmp_path):
    with pytest.raises(ValueError, match=f"gen.pth does not fit this network: .*{complaint}"):
        loaded(SMALL, tmp_path / "gen.pth", **changes)


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (lambda path: path.write_bytes(b"not a checkpoint"), "is not an SR3 checkpoint"),
        (lambda path: torch.save({"conv.weight": torch.zeros(1)}, path), "no tensor's name begins with denoise_fn."),
        (lambda path: torch.save(Restorer(SMALL), path), "is not an SR3 checkpoint: Weights only load failed"),
    ],
    ids=["no checkpoint", "foreign", "a pickled module"],
)
def test_what_is_no_checkpoint_is_refused_in_a_sentence(write, complaint, tmp_path):
    write(tmp_path / "gen.pth")
    with pytest.raises(ValueError, match=complaint):
        load_sr3(Restorer(SMALL), tmp_path / "gen.pth")
