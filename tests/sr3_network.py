"""SR3's U-Net once more, plainly from SPEC §2 and the names of §11: random checkpoints, and ε of one in float64."""

import math

import torch
from torch.nn import functional as F

from diffvqa_rt.metrics.diffv2iqa.config import RestorerConfig

ATTENDED_LEVEL = 3


def layers(config: RestorerConfig) -> list[tuple[str, str, int, int, bool]]:
    """(name, kind, in, out, is attended) in the order in which they run; kinds are conv, block, down, up."""
    widths, found = config.channels, []
    now, skips = widths[0], [widths[0]]
    found.append(("downs.0", "conv", 6, now, False))
    for level, width in enumerate(widths):
        for _ in range(config.blocks):
            found.append((f"downs.{len(found)}", "block", now, width, level == ATTENDED_LEVEL))
            now = width
            skips.append(now)
        if level + 1 < len(widths):
            found.append((f"downs.{len(found)}", "down", now, now, False))
            skips.append(now)
    found += [("mid.0", "block", now, now, True), ("mid.1", "block", now, now, False)]
    ups = 0
    for level in reversed(range(len(widths))):
        kinds = ["block"] * (config.blocks + 1) + ["up"] * (level > 0)
        for kind in kinds:
            width_in = now + skips.pop() if kind == "block" else now
            is_attended = kind == "block" and level == ATTENDED_LEVEL
            found.append((f"ups.{ups}", kind, width_in, widths[level], is_attended))
            now, ups = widths[level], ups + 1
    return found


def random_checkpoint(config: RestorerConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """A file's tensors as SR3 saves them, the tables of its schedule included."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}

    def normal(name: str, *shape: int, fan_in: int) -> None:
        weights[f"denoise_fn.{name}"] = torch.randn(*shape, generator=generator) / math.sqrt(fan_in)

    def conv(name: str, width_in: int, width_out: int, side: int = 3, has_bias: bool = True) -> None:
        normal(f"{name}.weight", width_out, width_in, side, side, fan_in=width_in * side * side)
        if has_bias:
            normal(f"{name}.bias", width_out, fan_in=4)

    def linear(name: str, width_in: int, width_out: int) -> None:
        normal(f"{name}.weight", width_out, width_in, fan_in=width_in)
        normal(f"{name}.bias", width_out, fan_in=4)

    def norm(name: str, width: int) -> None:
        normal(f"{name}.weight", width, fan_in=9)
        weights[f"denoise_fn.{name}.weight"] += 1
        normal(f"{name}.bias", width, fan_in=4)
        if config.norm == "batch":  # with statistics that a wrong fold does not survive
            normal(f"{name}.running_mean", width, fan_in=4)
            weights[f"denoise_fn.{name}.running_var"] = 0.3 + 2 * torch.rand(width, generator=generator)
            weights[f"denoise_fn.{name}.num_batches_tracked"] = torch.tensor(7)

    first = config.channels[0]
    linear("noise_level_mlp.1", first, 4 * first)
    linear("noise_level_mlp.3", 4 * first, first)
    for name, kind, width_in, width_out, is_attended in layers(config):
        if kind == "conv":
            conv(name, width_in, width_out)
        elif kind in ("down", "up"):
            conv(f"{name}.conv", width_in, width_out)
        else:
            norm(f"{name}.res_block.block1.block.0", width_in)
            conv(f"{name}.res_block.block1.block.3", width_in, width_out)
            linear(f"{name}.res_block.noise_func.noise_func.0", first, width_out)
            norm(f"{name}.res_block.block2.block.0", width_out)
            conv(f"{name}.res_block.block2.block.3", width_out, width_out)
            if width_in != width_out:
                conv(f"{name}.res_block.res_conv", width_in, width_out, side=1)
        if is_attended:
            norm(f"{name}.attn.norm", width_out)
            conv(f"{name}.attn.qkv", width_out, 3 * width_out, side=1, has_bias=False)
            conv(f"{name}.attn.out", width_out, width_out, side=1)
    norm("final_conv.block.0", first)
    conv("final_conv.block.3", first, 3)
    return {**weights, "betas": torch.rand(2000, generator=generator)}


def noise_of(
    checkpoint: dict[str, torch.Tensor], config: RestorerConfig, x: torch.Tensor, y: torch.Tensor, gamma: torch.Tensor
) -> torch.Tensor:
    """ε_θ([x, y], γ) in evaluation mode, [B, 3, H, W] float64."""
    weights = {name.removeprefix("denoise_fn."): tensor.double() for name, tensor in checkpoint.items()}

    def conv(name: str, h: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = weights[f"{name}.weight"]
        return F.conv2d(h, weight, weights.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2)

    def linear(name: str, v: torch.Tensor) -> torch.Tensor:
        return v @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, h: torch.Tensor) -> torch.Tensor:
        if config.norm == "batch":
            mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
            h = (h - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        else:
            groups = h.unflatten(1, (config.norm_groups, -1)).flatten(2)
            mean, variance = groups.mean(2, keepdim=True), groups.var(2, unbiased=False, keepdim=True)
            h = ((groups - mean) / (variance + 1e-5).sqrt()).reshape(h.shape)
        return h * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]

    def silu(h: torch.Tensor) -> torch.Tensor:
        return h / (1 + torch.exp(-h))

    count = config.channels[0] // 2
    angles = torch.stack([gamma.double() * 10 ** (-4 * i / count) for i in range(count)], dim=1)
    embedding = linear("noise_level_mlp.1", torch.cat([angles.sin(), angles.cos()], dim=1))
    embedding = linear("noise_level_mlp.3", silu(embedding))

    def block(name: str, h: torch.Tensor, is_attended: bool) -> torch.Tensor:
        inner = conv(f"{name}.res_block.block1.block.3", silu(norm(f"{name}.res_block.block1.block.0", h)))
        inner = inner + linear(f"{name}.res_block.noise_func.noise_func.0", embedding)[:, :, None, None]
        inner = conv(f"{name}.res_block.block2.block.3", silu(norm(f"{name}.res_block.block2.block.0", inner)))
        h = inner + (conv(f"{name}.res_block.res_conv", h) if f"{name}.res_block.res_conv.weight" in weights else h)
        if not is_attended:
            return h
        width = h.shape[1]
        q, k, v = conv(f"{name}.attn.qkv", norm(f"{name}.attn.norm", h)).flatten(2).split(width, dim=1)
        logits = torch.einsum("bci,bcj->bij", q, k) / math.sqrt(width)
        attended = torch.einsum("bij,bcj->bci", logits.exp() / logits.exp().sum(2, keepdim=True), v)
        return h + conv(f"{name}.attn.out", attended.reshape(h.shape))

    h, skips = torch.cat([x, y], dim=1).double(), []
    for name, kind, _, _, is_attended in layers(config):
        if kind == "up":
            h = conv(f"{name}.conv", h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
        elif kind == "down":
            h = conv(f"{name}.conv", h, stride=2)
        elif kind == "conv":
            h = conv(name, h)
        else:
            h = block(name, torch.cat([h, skips.pop()], dim=1) if name.startswith("ups.") else h, is_attended)
        if name.startswith("downs."):
            skips.append(h)
    return conv("final_conv.block.3", silu(norm("final_conv.block.0", h)))
