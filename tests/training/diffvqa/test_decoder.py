"""The VAE's decoder against diffusers: from our own file, and from a Stable Diffusion folder."""

import dataclasses

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.training.diffvqa.decoder import VaeDecoder, load_decoder, save_decoder

CONFIG = dataclasses.replace(TINY.vae, channels=(8, 8, 16, 16), norm_groups=4)


@pytest.fixture
def oracle():
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=CONFIG.channels,
        layers_per_block=CONFIG.layers_per_block,
        norm_num_groups=CONFIG.norm_groups,
    ).eval()


@torch.inference_mode()
def assert_decodes_as(oracle, decoder):
    z0 = torch.randn(2, 4, 8, 8)
    frames = decoder(z0)
    assert frames.shape == (2, 3, 64, 64) and frames.dtype == torch.float32 and not decoder.training
    torch.testing.assert_close(frames, oracle.decode(z0 / 0.18215).sample)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_saved_decoder_decodes_as_diffusers(tmp_path, oracle, dtype):
    path = tmp_path / "decoder.safetensors"
    save_decoder(oracle, path, dtype)
    saved = load_file(path)
    assert {tensor.dtype for tensor in saved.values()} == {dtype}
    assert {name.split(".")[0] for name in saved} == {"decoder", "post_quant_conv"}
    # The oracle with what the file holds of its weights.
    assert_decodes_as(oracle.to(dtype).float(), load_decoder(path, CONFIG))


def test_our_module_is_saved_under_the_same_names(tmp_path, oracle):
    save_decoder(oracle, tmp_path / "theirs.safetensors")
    save_decoder(VaeDecoder(CONFIG), tmp_path / "ours.safetensors")
    theirs, ours = (load_file(tmp_path / f"{name}.safetensors") for name in ("theirs", "ours"))
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_a_stable_diffusion_folder_gives_its_decoder_under_old_names_too(tmp_path, oracle):
    oracle.save_pretrained(tmp_path / "vae")
    assert_decodes_as(oracle, load_decoder(tmp_path, CONFIG))
    file = tmp_path / "vae/diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for name, tensor in load_file(file).items():
        for new_part, old_part in old.items():
            name = name.replace(f".{new_part}.", f".{old_part}.")
        weights[name] = tensor
    assert any("proj_attn" in name for name in weights)
    save_file(weights, file)
    assert_decodes_as(oracle, load_decoder(tmp_path, CONFIG))


def test_what_is_no_decoder_of_this_vae_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="vae/diffusion_pytorch_model.safetensors is missing"):
        load_decoder(tmp_path, CONFIG)
    with pytest.raises(ValueError, match="no.safetensors cannot be read"):
        load_decoder(tmp_path / "no.safetensors", CONFIG)
    (tmp_path / "pickle").write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(ValueError, match="pickle cannot be read as safetensors"):
        load_decoder(tmp_path / "pickle", CONFIG)
    save_decoder(VaeDecoder(CONFIG), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors does not fit this network"):
        load_decoder(tmp_path / "other.safetensors", dataclasses.replace(CONFIG, channels=(8, 8, 8, 16)))
