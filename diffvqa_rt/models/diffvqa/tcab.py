"""The Temporal Coherence Augmentation Block (paper §3.3, Figure 6): VideoMamba over a view's frames.

Structure and state-dict names follow VideoMamba (Li et al. 2024), so that its published checkpoints load.
"""

import torch
from diffvqa_kernels.selective_scan import bidirectional_selective_scan
from torch import Tensor, nn
from torch.nn import functional as F

from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig, TcabConfig

NORM_EPS = 1e-5


class BidirectionalMamba(nn.Module):
    """Mamba's mixer in both directions over x [B, L, C]; the directions share `in_proj`, the gate and `out_proj`."""

    def __init__(self, config: TcabConfig) -> None:
        super().__init__()
        width, inner, rank, n = config.width, config.inner_width, config.dt_rank, config.d_state
        self.rank, self.d_state, self.d_conv = rank, n, config.d_conv
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * n, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, n))
        self.D = nn.Parameter(torch.empty(inner))
        self.conv1d_b = nn.Conv1d(inner, inner, config.d_conv, groups=inner)
        self.x_proj_b = nn.Linear(inner, rank + 2 * n, bias=False)
        self.dt_proj_b = nn.Linear(rank, inner)
        self.A_b_log = nn.Parameter(torch.empty(inner, n))
        self.D_b = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Mamba's initialisation (Gu & Dao 2023, §3.6): A = −1 … −n, D = 1, Δ log-uniform in 0.001 … 0.1."""
        for a_log, skip in ((self.A_log, self.D), (self.A_b_log, self.D_b)):
            a_log.copy_(torch.arange(1, self.d_state + 1, dtype=torch.float32).log().expand_as(a_log))
            skip.fill_(1)
        for dt_proj in (self.dt_proj, self.dt_proj_b):
            nn.init.uniform_(dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
            delta = torch.empty_like(dt_proj.bias).uniform_(-6.9, -2.3).exp()
            dt_proj.bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # the inverse of softplus

    def forward(self, x: Tensor) -> Tensor:
        x, z = self.in_proj(x).transpose(1, 2).chunk(2, dim=1)
        u = F.silu(self._convolve(x))
        # Axis 1 is the direction; both are stored in natural time order, and only the scan runs backwards.
        projected = torch.stack([self.x_proj.weight, self.x_proj_b.weight]) @ u
        low_rank, B, C = projected.split([self.rank, self.d_state, self.d_state], dim=2)
        delta = torch.stack([self.dt_proj.weight, self.dt_proj_b.weight]) @ low_rank
        y = bidirectional_selective_scan(
            u,
            delta,
            -torch.stack([self.A_log, self.A_b_log]).float().exp(),
            B,
            C,
            torch.stack([self.D, self.D_b]).float(),
            z,
            torch.stack([self.dt_proj.bias, self.dt_proj_b.bias]).float(),
        )
        return self.out_proj(y.transpose(1, 2))

    def _convolve(self, x: Tensor) -> Tensor:
        """The two depthwise causal convolutions of x [B, D, L] → [B, 2, D, L]; the backward one looks to the right."""
        margin = self.d_conv - 1
        forward = F.conv1d(F.pad(x, (margin, 0)), self.conv1d.weight, self.conv1d.bias, groups=x.shape[1])
        backward = F.conv1d(F.pad(x, (0, margin)), self.conv1d_b.weight.flip(2), self.conv1d_b.bias, groups=x.shape[1])
        return torch.stack([forward, backward], dim=1)


class MambaBlock(nn.Module):
    def __init__(self, config: TcabConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.width, eps=NORM_EPS)
        self.mixer = BidirectionalMamba(config)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mixer(self.norm(x))


class PatchEmbedding(nn.Module):
    def __init__(self, config: TcabConfig) -> None:
        super().__init__()
        patch = (1, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.width, patch, stride=patch)

    def forward(self, frames: Tensor) -> Tensor:
        """[V, N, 3, S, S] → [V, N, (S/16)², C]."""
        return self.proj(frames.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1)


class TemporalCoherenceBlock(nn.Module):
    """Args of `forward`: a view's frames [V, N, 3, S, S] in [−1, 1]. Returns F_TCAB [V, C], the normed VQA token."""

    def __init__(self, config: DiffVQAConfig) -> None:
        super().__init__()
        tcab = config.head.tcab
        patches = (config.view_size // tcab.patch_size) ** 2
        self.patch_embed = PatchEmbedding(tcab)
        self.cls_token = nn.Parameter(torch.empty(1, 1, tcab.width))
        self.pos_embed = nn.Parameter(torch.empty(1, patches + 1, tcab.width))
        self.temporal_pos_embedding = nn.Parameter(torch.empty(1, config.frames, tcab.width))
        self.layers = nn.ModuleList(MambaBlock(tcab) for _ in range(tcab.depth))
        self.norm_f = nn.RMSNorm(tcab.width, eps=NORM_EPS)
        for embedding in (self.cls_token, self.pos_embed, self.temporal_pos_embedding):
            nn.init.trunc_normal_(embedding, std=0.02)

    def forward(self, frames: Tensor) -> Tensor:
        return self.norm_f(self.tokens(frames)[:, 0])

    def tokens(self, frames: Tensor) -> Tensor:
        """The last layer's output for every token, before the norm, [V, L + 1, C]; the VQA token is the first."""
        patches = self.patch_embed(frames) + self.pos_embed[:, 1:] + self.temporal_pos_embedding[:, :, None]
        vqa_token = (self.cls_token + self.pos_embed[:, :1]).expand(frames.shape[0], -1, -1)
        # Spatial-first: all patches of a frame, then the next frame.
        x = torch.cat([vqa_token, patches.flatten(1, 2)], dim=1)
        for layer in self.layers:
            x = layer(x)
        return x


class TemporalConvolutionBlock(nn.Module):
    """Table 6's "3D Conv" row: 3-D convolutions over the same patches in the place of the Mamba blocks."""

    def __init__(self, config: DiffVQAConfig) -> None:
        super().__init__()
        tcab = config.head.tcab
        self.patch_embed = PatchEmbedding(tcab)
        self.grid = config.view_size // tcab.patch_size
        self.layers = nn.ModuleList(nn.Conv3d(tcab.width, tcab.width, 3, padding=1) for _ in range(tcab.depth))
        self.norm_f = nn.RMSNorm(tcab.width, eps=NORM_EPS)

    def forward(self, frames: Tensor) -> Tensor:
        x = self.patch_embed(frames).permute(0, 3, 1, 2).unflatten(3, (self.grid, self.grid))
        for layer in self.layers:
            x = x + F.gelu(layer(x))
        return self.norm_f(x.mean(dim=(2, 3, 4)))
