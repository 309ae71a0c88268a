"""Weights from our own files, from a Stable Diffusion folder and from VideoMamba checkpoints, on small random ones."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffvqa_export.weights import choose_weights
from hub_stub import hub_of
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.models.diffvqa import checkpoints
from diffvqa_rt.models.diffvqa.checkpoints import (
    load_stable_diffusion,
    load_videomamba,
    load_weights,
    null_prompt_states,
)
from diffvqa_rt.models.diffvqa.diffusion import DiffusionFeatureExtractor
from diffvqa_rt.models.diffvqa.network import random_network
from diffvqa_rt.models.diffvqa.tcab import TemporalCoherenceBlock
from diffvqa_rt.models.weights import save_weights, weights_sha256

SMALL = dataclasses.replace(TINY, frames=2, view_size=64)


@pytest.fixture
def stable_diffusion_folder(tmp_path):
    """A folder in diffusers' layout, as Stable Diffusion 2.1-base is published, of SMALL's sizes."""
    AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=SMALL.vae.channels,
        layers_per_block=SMALL.vae.layers_per_block,
        norm_num_groups=SMALL.vae.norm_groups,
    ).save_pretrained(tmp_path / "vae")
    UNet2DConditionModel(
        sample_size=SMALL.latent_size,
        block_out_channels=SMALL.unet.channels,
        layers_per_block=SMALL.unet.layers_per_block,
        attention_head_dim=SMALL.unet.attention_heads,
        cross_attention_dim=SMALL.unet.text_width,
        norm_num_groups=SMALL.unet.norm_groups,
        use_linear_projection=True,
    ).save_pretrained(tmp_path / "unet")
    # Stable Diffusion 2.1's tokenizer pads with "!", which is token 0.
    vocabulary = {"!": 0, "a</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.json").write_text(json.dumps(vocabulary))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "pad_token": "!",
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
                "model_max_length": SMALL.unet.text_tokens,
            }
        )
    )
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=SMALL.unet.text_width,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=SMALL.unet.text_tokens,
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=0,
        )
    ).save_pretrained(tmp_path / "text_encoder")
    return tmp_path


def test_our_own_file_gives_back_every_weight(tmp_path):
    network = random_network(SMALL, seed=3)
    save_weights(network, tmp_path / "w.safetensors", is_trained=True)
    loaded, is_trained = load_weights(tmp_path / "w.safetensors")
    assert is_trained and not loaded.training
    assert loaded.config == SMALL
    assert weights_sha256(loaded) == weights_sha256(network) != weights_sha256(random_network(SMALL, seed=4))


def write_changed(path, **changes):
    """A checkpoint with other tensors, or without those that are None."""
    weights = TemporalCoherenceBlock(SMALL).state_dict() | changes
    torch.save({name: tensor for name, tensor in weights.items() if tensor is not None}, path)


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (lambda path: None, "no such weights file"),
        (lambda path: path.write_bytes(b"\x80\x04 a pickle"), "never read from pickles"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), "does not describe a DiffVQA network"),
        (
            lambda path: save_file({"x": torch.zeros(1)}, path, {"config": json.dumps(SMALL.as_dict())}),
            "does not fit this network: .*Missing key",
        ),
    ],
    ids=["missing", "pickle", "foreign", "incomplete"],
)
def test_a_bad_weights_file_is_refused_in_a_sentence(tmp_path, write, complaint):
    path = tmp_path / "w.safetensors"
    write(path)
    with pytest.raises(ValueError, match=complaint):
        load_weights(path)


@torch.inference_mode()
def test_a_stable_diffusion_folder_fills_the_extractor(stable_diffusion_folder):
    extractor = DiffusionFeatureExtractor(SMALL).eval()
    load_stable_diffusion(extractor, stable_diffusion_folder)
    unet = UNet2DConditionModel.from_pretrained(stable_diffusion_folder / "unet").eval()
    vae = AutoencoderKL.from_pretrained(stable_diffusion_folder / "vae").eval()

    frames = torch.rand(1, 3, SMALL.view_size, SMALL.view_size) * 2 - 1
    torch.testing.assert_close(extractor.vae(frames), 0.18215 * vae.encode(frames).latent_dist.mean)
    z, timestep = torch.randn(1, *SMALL.latent_shape), torch.tensor([444])
    text = CLIPTextModel.from_pretrained(stable_diffusion_folder / "text_encoder").eval()
    # Beginning, end, then padding: the empty prompt as the pipeline encodes it.
    states = text(torch.tensor([[2, 3] + [0] * (SMALL.unet.text_tokens - 2)])).last_hidden_state
    torch.testing.assert_close(extractor.null_prompt, states[0])
    torch.testing.assert_close(
        extractor.predict_noise(z, torch.randn_like(z), timestep),
        unet(z, timestep, states).sample,
        rtol=1e-4,
        atol=1e-5,
    )


@torch.inference_mode()
def test_weights_from_a_stable_diffusion_folder_leave_the_unet_as_it_was(stable_diffusion_folder):
    chosen = choose_weights(SMALL, stable_diffusion_folder)
    assert not chosen.is_trained and chosen.source.endswith("with a random head")
    unet = UNet2DConditionModel.from_pretrained(stable_diffusion_folder / "unet").eval()
    extractor = chosen.load().extractor
    z, timestep = torch.randn(1, *SMALL.latent_shape), torch.tensor([444])
    steered = extractor.predict_noise(z, torch.randn_like(z), timestep)
    torch.testing.assert_close(steered, unet(z, timestep, extractor.null_prompt[None]).sample, rtol=1e-4, atol=1e-5)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_stable_diffusion_folder_may_be_a_repository(stable_diffusion_folder, tmp_path):
    files = files_of(stable_diffusion_folder)
    with hub_of({"a/sd": {**files, "unet/diffusion_pytorch_model.bin": b"a pickle"}}, tmp_path / "cache") as hub:
        chosen = choose_weights(SMALL, "hf://a/sd@main")
        assert chosen.source == "hf://a/sd@main, with a random head"
        expected = choose_weights(SMALL, stable_diffusion_folder)
        assert weights_sha256(chosen.load()) == weights_sha256(expected.load())
    assert not any(request.endswith(".bin") for request in hub.asked)


def test_a_repository_that_lacks_a_tensor_or_a_file_is_told_by_their_names(stable_diffusion_folder, tmp_path):
    unet = "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(stable_diffusion_folder / unet)
    del tensors["conv_in.bias"]
    save_file(tensors, stable_diffusion_folder / unet)
    files = files_of(stable_diffusion_folder)
    with hub_of({"a/sd": files, "a/half": {n: f for n, f in files.items() if n != unet}}, tmp_path / "cache"):
        with pytest.raises(ValueError, match=rf"models--a--sd.*{unet} does not fit this network: .*conv_in.bias"):
            choose_weights(SMALL, "hf://a/sd@main").load()
        with pytest.raises(ValueError, match=rf"models--a--half.*{unet} is missing; expected a Stable Diffusion"):
            choose_weights(SMALL, "hf://a/half@main").load()


def test_our_own_weights_may_be_a_repository(tmp_path):
    save_weights(random_network(SMALL), tmp_path / "w.safetensors", is_trained=True)
    files = {"model.safetensors": (tmp_path / "w.safetensors").read_bytes()}
    with hub_of({"me/mine": files}, tmp_path / "cache"):
        chosen = choose_weights(SMALL, "hf://me/mine@v1")
    assert (chosen.source, chosen.is_trained) == ("hf://me/mine@v1", True)


@torch.inference_mode()
def test_the_attention_names_of_the_published_vae_still_load(stable_diffusion_folder):
    file = stable_diffusion_folder / "vae" / "diffusion_pytorch_model.safetensors"
    current = load_file(file)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in current.items():
        for new, published in old.items():
            if "attentions" in name and f".{new}." in name:
                name = name.replace(f".{new}.", f".{published}.")
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        renamed[name] = tensor.contiguous()
    save_file(renamed, file)
    assert renamed.keys() != current.keys()
    extractor = DiffusionFeatureExtractor(SMALL)
    load_stable_diffusion(extractor, stable_diffusion_folder)
    assert torch.equal(
        extractor.vae.encoder.mid_block.attentions[0].to_q.weight, current["encoder.mid_block.attentions.0.to_q.weight"]
    )


@pytest.mark.parametrize("part", ["vae", "unet", "tokenizer", "text_encoder"])
def test_a_missing_part_is_named(stable_diffusion_folder, part):
    (stable_diffusion_folder / part).rename(stable_diffusion_folder / "elsewhere")
    with pytest.raises(ValueError, match=rf"{part}.*Stable Diffusion 2.1-base folder in diffusers' layout"):
        load_stable_diffusion(DiffusionFeatureExtractor(SMALL), stable_diffusion_folder)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("vae", {"channels": (32, 32, 64, 64)}),
        ("unet", {"channels": (64, 64, 96, 96)}),
        ("unet", {"text_width": 32}),
    ],
)
def test_a_folder_of_another_size_is_refused_in_a_sentence(stable_diffusion_folder, part, change):
    other = dataclasses.replace(SMALL, **{part: dataclasses.replace(getattr(SMALL, part), **change)})
    with pytest.raises(ValueError, match=f"{part}.*does not fit this network"):
        load_stable_diffusion(DiffusionFeatureExtractor(other), stable_diffusion_folder)


def test_a_text_encoder_of_another_width_is_refused(stable_diffusion_folder, monkeypatch):
    assert null_prompt_states(stable_diffusion_folder, 8).shape == (8, SMALL.unet.text_width)
    monkeypatch.setattr(checkpoints, "null_prompt_states", lambda folder, tokens: torch.zeros(tokens, 32))
    with pytest.raises(ValueError, match=r"text_encoder gives states \(8, 32\); expected \(8, 64\)"):
        load_stable_diffusion(DiffusionFeatureExtractor(SMALL), stable_diffusion_folder)


@pytest.mark.parametrize("part", ["vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json"])
def test_a_damaged_folder_is_refused_in_a_sentence(stable_diffusion_folder, part):
    file = stable_diffusion_folder / part
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match="cannot be read"):
        load_stable_diffusion(DiffusionFeatureExtractor(SMALL), stable_diffusion_folder)


IMAGENET_MEAN, IMAGENET_STD = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64)


def as_videomamba_sees(frames):
    """Frames [V, N, 3, S, S] in [−1, 1] as VideoMamba's own training normalises them."""
    mean, std = (x.to(frames.dtype)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (frames / 2 + 0.5 - mean) / std


@pytest.mark.parametrize(
    "wrap",
    [lambda weights: weights, lambda weights: {"model": weights}, lambda weights: {"module": weights, "epoch": 3}],
    ids=["flat", "model", "module"],
)
def test_a_videomamba_checkpoint_loads(tmp_path, wrap):
    source, target = TemporalCoherenceBlock(SMALL), TemporalCoherenceBlock(SMALL)
    weights = {**source.state_dict(), "head.weight": torch.zeros(400, 64), "head.bias": torch.zeros(400)}
    torch.save(wrap(weights), tmp_path / "videomamba.pth")
    load_videomamba(target, tmp_path / "videomamba.pth")
    for name, tensor in source.state_dict().items():
        assert name.startswith("patch_embed") or torch.equal(target.state_dict()[name], tensor), name


@torch.no_grad()
def test_a_videomamba_checkpoint_sees_frames_as_it_was_trained_to(tmp_path):
    source, target = TemporalCoherenceBlock(SMALL).double(), TemporalCoherenceBlock(SMALL).double()
    save_file(source.state_dict(), tmp_path / "videomamba.safetensors")
    load_videomamba(target, tmp_path / "videomamba.safetensors")
    frames = torch.rand(2, 2, 3, 64, 64, dtype=torch.float64) * 2 - 1
    expected = source.patch_embed(as_videomamba_sees(frames))
    torch.testing.assert_close(target.patch_embed(frames), expected, rtol=1e-13, atol=1e-13)
    # Unfolded, they would be far off.
    assert (source.patch_embed(frames) - expected).norm() > 0.3 * expected.norm()


@torch.no_grad()
def test_an_image_checkpoint_of_videomamba_is_inflated(tmp_path):
    """Its patches are of one frame, it has no temporal embedding, and here it saw pictures of another size."""
    source, target = TemporalCoherenceBlock(SMALL), TemporalCoherenceBlock(dataclasses.replace(SMALL, view_size=128))
    weights = source.state_dict()
    del weights["temporal_pos_embedding"]
    weights["patch_embed.proj.weight"] = weights["patch_embed.proj.weight"][:, :, 0]
    torch.save({"model": weights | {"head.weight": torch.zeros(1000, 64)}}, tmp_path / "image.pth")
    load_videomamba(target, tmp_path / "image.pth")
    assert not target.temporal_pos_embedding.any()
    assert torch.equal(target.layers[0].mixer.in_proj.weight, source.layers[0].mixer.in_proj.weight)
    frames = torch.rand(1, 2, 3, 128, 128) * 2 - 1
    image = as_videomamba_sees(frames)[0, 1]
    patches = torch.nn.functional.conv2d(
        image, weights["patch_embed.proj.weight"], source.patch_embed.proj.bias, stride=16
    )
    torch.testing.assert_close(target.patch_embed(frames)[0, 1], patches.flatten(1).T, rtol=1e-4, atol=1e-4)


def test_a_videomamba_checkpoint_of_another_resolution_and_length_is_interpolated(tmp_path):
    larger = dataclasses.replace(SMALL, view_size=128, frames=4)
    source, target = TemporalCoherenceBlock(SMALL), TemporalCoherenceBlock(larger)
    save_file(source.state_dict(), tmp_path / "videomamba.safetensors")
    load_videomamba(target, tmp_path / "videomamba.safetensors")
    assert torch.equal(target.pos_embed[:, 0], source.pos_embed[:, 0])
    assert torch.equal(target.layers[1].mixer.A_log, source.layers[1].mixer.A_log)
    # Interpolation keeps the mean of a line that doubles in length.
    torch.testing.assert_close(
        target.temporal_pos_embedding.mean(1), source.temporal_pos_embedding.mean(1), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (lambda path: None, "is not a VideoMamba checkpoint"),
        (lambda path: path.write_bytes(b"not a checkpoint"), "is not a VideoMamba checkpoint"),
        (lambda path: torch.save(torch.zeros(3), path), "is not a VideoMamba checkpoint: it holds a Tensor"),
        (lambda path: torch.save({"pos_embed": torch.zeros(1, 8, 64)}, path), "does not fit this network"),
        (lambda path: torch.save({"model": [1, 2]}, path), "it holds something else than tensors by name"),
        (lambda path: write_changed(path, pos_embed=torch.zeros(1, 8, 64)), "does not fit this network"),
        (lambda path: write_changed(path, pos_embed=torch.zeros(64)), "does not fit this network"),
        (lambda path: write_changed(path, temporal_pos_embedding=None), "does not fit .*temporal_pos_embedding"),
        (lambda path: write_changed(path, **{"patch_embed.proj.bias": None}), "it has no patch_embed.proj.bias"),
        (
            lambda path: write_changed(path, **{"patch_embed.proj.weight": torch.zeros(64, 3, 2, 16, 16)}),
            "does not fit .*patch_embed.proj.weight",
        ),
    ],
    ids=[
        *("missing", "garbage", "bare_tensor", "no_patches", "no_tensors", "no_square_grid", "no_grid"),
        *("no_time", "no_bias", "patches_of_two_frames"),
    ],
)
def test_a_bad_videomamba_checkpoint_is_refused_in_a_sentence(tmp_path, write, complaint):
    path = tmp_path / "videomamba.pth"
    write(path)
    with pytest.raises(ValueError, match=complaint):
        load_videomamba(TemporalCoherenceBlock(SMALL), path)
