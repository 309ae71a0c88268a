"""The head, and the TCAB against VideoMamba's arithmetic written from its equations."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffvqa_rt.metrics.diffvqa.presets import TINY
from diffvqa_rt.models.diffvqa.fusion import TemporalDifference
from diffvqa_rt.models.diffvqa.network import DiffVQA, Head, random_network
from diffvqa_rt.models.diffvqa.tcab import TemporalCoherenceBlock

SMALL = dataclasses.replace(TINY, frames=3, view_size=64)


def features_of(config, videos: int) -> tuple[Tensor, list[Tensor], Tensor]:
    count = 2 * config.frames
    latent = torch.randn(videos, count, *config.latent_shape)
    features = [torch.randn(videos, count, *shape) for shape in config.feature_shapes]
    return latent, features, torch.rand(videos, count, 3, config.view_size, config.view_size) * 2 - 1


@torch.inference_mode()
def test_the_score_is_the_weighted_sum_of_frame_scores_on_the_score_range():
    head = random_network(SMALL).head
    score, frame_scores, frame_weights = head(*features_of(SMALL, 2))
    assert score.shape == (2,) and frame_scores.shape == frame_weights.shape == (2, 3)
    torch.testing.assert_close(frame_weights.sum(1), torch.ones(2))
    torch.testing.assert_close((frame_weights * frame_scores).sum(1), score)
    assert score.min() > 0 and score.max() < 100  # an untrained head starts near the middle


@torch.inference_mode()
def test_weights_come_from_the_semantic_view_and_scores_from_the_distortion_view():
    head = random_network(SMALL).head
    latent, features, frames = features_of(SMALL, 1)
    _, scores, weights = head(latent, features, frames)
    latent[:, 0::2] += 1  # the semantic view of every frame
    _, same_scores, other_weights = head(latent, features, frames)
    assert torch.equal(scores, same_scores)
    assert not torch.equal(weights, other_weights)


@torch.inference_mode()
def test_a_video_scores_the_same_beside_another():
    head = random_network(SMALL).head
    latent, features, frames = features_of(SMALL, 2)
    both = head(latent, features, frames).score
    alone = head(latent[1:], [f[1:] for f in features], frames[1:]).score
    torch.testing.assert_close(alone[0], both[1], rtol=1e-5, atol=0)


@torch.inference_mode()
def test_first_difference_is_zero():
    tdm = TemporalDifference(4).eval()
    frames = torch.randn(1, 3, 4, 6, 6)
    still = frames[:, :1].expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(tdm(frames)[:, 0], tdm(still)[:, 0])
    torch.testing.assert_close(tdm(still)[:, 0], tdm(still)[:, 2])
    assert not torch.allclose(tdm(frames)[:, 2], tdm(still)[:, 2])


@pytest.mark.parametrize(
    ("variant", "semantic", "distortion"),
    [
        ("both", "TemporalCoherenceBlock", "TemporalCoherenceBlock"),
        ("semantic", "TemporalCoherenceBlock", "NoneType"),
        ("distortion", "NoneType", "TemporalCoherenceBlock"),
        ("none", "NoneType", "NoneType"),
        ("conv3d", "TemporalConvolutionBlock", "TemporalConvolutionBlock"),
    ],
)
@torch.inference_mode()
def test_table_6_variants(variant, semantic, distortion):
    tcab = dataclasses.replace(SMALL.head.tcab, views=variant)
    config = dataclasses.replace(SMALL, head=dataclasses.replace(SMALL.head, tcab=tcab))
    head = Head(config).eval()
    assert type(head.semantic.tcab).__name__ == semantic
    assert type(head.distortion.tcab).__name__ == distortion
    assert head(*features_of(config, 1)).score.isfinite().all()


def test_only_the_head_learns_through_the_network():
    network = DiffVQA(SMALL).train()
    frames = torch.rand(1, 2 * SMALL.frames, 3, SMALL.view_size, SMALL.view_size) * 2 - 1
    # Batch statistics need more than one value a channel; at this size FFF's maps have several.
    network(frames).score.sum().backward()
    assert all(p.grad is None for p in network.extractor.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.head.parameters())


def mamba_direction(x: Tensor, z: Tensor, weights: dict[str, Tensor], suffix: str) -> Tensor:
    """One direction of VideoMamba's mixer over x, z [L, D], token by token: SPEC §4 and Mamba's §3, in float64."""
    a_log = weights["A_b_log" if suffix else "A_log"]
    dim, n = a_log.shape
    kernel, bias = weights[f"conv1d{suffix}.weight"][:, 0], weights[f"conv1d{suffix}.bias"]
    history = torch.cat([torch.zeros(kernel.shape[1] - 1, dim, dtype=x.dtype), x])
    state = torch.zeros(dim, n, dtype=x.dtype)
    outputs = []
    for k in range(len(x)):
        window = history[k : k + kernel.shape[1]]
        u = F.silu((window * kernel.T).sum(0) + bias)
        projected = weights[f"x_proj{suffix}.weight"] @ u
        rank = len(projected) - 2 * n
        low_rank, b, c = projected[:rank], projected[rank : rank + n], projected[rank + n :]
        delta = F.softplus(weights[f"dt_proj{suffix}.weight"] @ low_rank + weights[f"dt_proj{suffix}.bias"])
        state = torch.exp(delta[:, None] * -a_log.exp()) * state + (delta * u)[:, None] * b
        outputs.append((state @ c + weights["D_b" if suffix else "D"] * u) * F.silu(z[k]))
    return torch.stack(outputs)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight


def videomamba(frames: Tensor, weights: dict[str, Tensor], depth: int) -> Tensor:
    """VideoMamba's forward pass for one clip [N, 3, S, S] → the class token after `norm_f`, [C], in float64."""
    kernel = weights["patch_embed.proj.weight"]
    patch = kernel.shape[-1]
    tokens = [weights["cls_token"][0, 0] + weights["pos_embed"][0, 0]]
    for t, frame in enumerate(frames):
        patches = frame.unfold(1, patch, patch).unfold(2, patch, patch)
        grid = torch.einsum("cyxij,ocij->yxo", patches, kernel[:, :, 0]).flatten(0, 1)
        embedded = grid + weights["patch_embed.proj.bias"] + weights["pos_embed"][0, 1:]
        tokens += list(embedded + weights["temporal_pos_embedding"][0, t])
    x = torch.stack(tokens)
    for layer in range(depth):
        prefix = f"layers.{layer}.mixer."
        mixer = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        projected = rms_norm(x, weights[f"layers.{layer}.norm.weight"]) @ mixer["in_proj.weight"].T
        inner, z = projected.chunk(2, dim=1)
        forward = mamba_direction(inner, z, mixer, "")
        backward = mamba_direction(inner.flip(0), z.flip(0), mixer, "_b").flip(0)
        x = x + (forward + backward) @ mixer["out_proj.weight"].T
    return rms_norm(x, weights["norm_f.weight"])[0]


@torch.inference_mode()
def test_tcab_equals_videomambas_arithmetic():
    block = TemporalCoherenceBlock(SMALL).eval()
    for parameter in block.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    frames = torch.rand(2, SMALL.frames, 3, SMALL.view_size, SMALL.view_size) * 2 - 1
    weights = {name: value.double() for name, value in block.state_dict().items()}
    actual = block(frames)
    for row, clip in zip(actual, frames, strict=True):
        expected = videomamba(clip.double(), weights, SMALL.head.tcab.depth)
        error = (row - expected).abs().max() / expected.abs().max()
        assert error < 1e-5, f"relative error {error:.1e}"


def test_mamba_starts_with_step_sizes_between_a_thousandth_and_a_tenth():
    mixer = TemporalCoherenceBlock(SMALL).layers[0].mixer
    for bias in (mixer.dt_proj.bias, mixer.dt_proj_b.bias):
        delta = F.softplus(bias)
        assert delta.min() > 0.9e-3 and delta.max() < 0.11
        assert delta.log().std() > 0.5
    assert torch.equal(mixer.A_log[0].exp().round(), torch.arange(1.0, 17.0))
    assert torch.equal(mixer.D, torch.ones_like(mixer.D))
