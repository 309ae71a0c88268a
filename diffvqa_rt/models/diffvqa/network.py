"""The whole network: the frozen extractor, and the head that reads quality from it (SPEC §2, §3)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffvqa_rt.metrics.diffvqa.config import VIEWS, DiffVQAConfig
from diffvqa_rt.models.diffvqa.diffusion import DenoisingStep, DiffusionFeatureExtractor, reconstruct
from diffvqa_rt.models.diffvqa.fusion import DiffusionFeatureFusion, FrameFeatureFusion, ScoreMLP, TemporalDifference
from diffvqa_rt.models.diffvqa.tcab import TemporalCoherenceBlock, TemporalConvolutionBlock


class Prediction(NamedTuple):
    """score [V], on the config's `score_range` scale; frame_scores and frame_weights [V, N]; Σ w s = score."""

    score: Tensor
    frame_scores: Tensor
    frame_weights: Tensor


class ViewHead(nn.Module):
    """One view's share of the head: its features and frames in, N numbers out.

    Args of `forward`: latent [V, N, 4, h, h]; features, coarse to fine, [V, N, C_i, h_i, h_i]; frames [V, N, 3, S, S].
    """

    def __init__(self, config: DiffVQAConfig, view: str) -> None:
        super().__init__()
        head = config.head
        self.dff = DiffusionFeatureFusion(config)
        self.tdm = TemporalDifference(head.feature_channels)
        self.fff = FrameFeatureFusion(head.feature_channels, config.frames, head.fused_channels)
        width = head.fused_channels * (config.latent_size // 4) ** 2
        self.tcab: nn.Module | None = None
        if head.tcab.views in ("both", view):
            self.tcab = TemporalCoherenceBlock(config)
        elif head.tcab.views == "conv3d":
            self.tcab = TemporalConvolutionBlock(config)
        if self.tcab is not None:
            width += head.tcab.width
        self.mlp = ScoreMLP(width, head.mlp_width, config.frames, head.dropout)

    def forward(self, latent: Tensor, features: list[Tensor], frames: Tensor) -> Tensor:
        fused = self.dff(latent.flatten(0, 1), [feature.flatten(0, 1) for feature in features])
        vector = self.fff(self.tdm(fused.unflatten(0, latent.shape[:2])))
        if self.tcab is not None:
            vector = torch.cat([vector, self.tcab(frames)], dim=1)
        return self.mlp(vector)


class Head(nn.Module):
    """Features and frames of both views, interleaved on axis 1, to the score. The `head` engine.

    The distortion view scores the frames, the semantic view weighs them: q̂ = Σ softmax(w) s.
    """

    def __init__(self, config: DiffVQAConfig) -> None:
        super().__init__()
        self.score_range = config.score_range
        self.semantic = ViewHead(config, "semantic")
        self.distortion = ViewHead(config, "distortion")
        # An untrained network scores near the middle of the range, and L1 starts from there.
        nn.init.constant_(self.distortion.mlp[-1].bias, 0.5)

    def forward(self, z0_hat: Tensor, features: list[Tensor], frames: Tensor) -> Prediction:
        outputs = [
            view(
                z0_hat[:, index :: len(VIEWS)],
                [f[:, index :: len(VIEWS)] for f in features],
                frames[:, index :: len(VIEWS)],
            )
            for index, view in enumerate((self.semantic, self.distortion))
        ]
        low, high = self.score_range
        weights = outputs[0].softmax(dim=1)
        scores = low + (high - low) * outputs[1]
        return Prediction((weights * scores).sum(dim=1), scores, weights)


class DiffVQA(nn.Module):
    """The network from views to score. Args of `forward`: frames [V, 2N, 3, S, S] in [−1, 1], views interleaved."""

    def __init__(self, config: DiffVQAConfig) -> None:
        super().__init__()
        self.config = config
        self.extractor = DiffusionFeatureExtractor(config)
        self.head = Head(config)

    @torch.no_grad()
    def extract(self, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        """F_Latent [V, 2N, 4, h, h] and F_MS: the frozen part, K denoising steps included."""
        z0 = self.extractor.vae(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return reconstruct(DenoisingStep(self.extractor), z0, self.config.sampler.steps)

    def forward(self, frames: Tensor) -> Prediction:
        return self.head(*self.extract(frames), frames)


def random_network(config: DiffVQAConfig, seed: int = 0) -> DiffVQA:
    """The network with seeded random weights, in evaluation mode: untrained, but the same on every machine.

    The Controller starts as the paper's does, a copy of the UNet; what is zero there then gets small random weights,
    since it would hide the Controller from every check that these weights serve.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DiffVQA(config)
        extractor = network.extractor
        nn.init.normal_(extractor.null_prompt)
        extractor.controller.copy_from_unet(extractor.unet)
        for name, parameter in extractor.controller.named_parameters():
            if name.startswith("controlnet_"):
                nn.init.normal_(parameter, std=0.02)
        nn.init.normal_(extractor.controller.conv_in.weight, std=0.05)
    return network.eval()
