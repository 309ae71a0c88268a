"""The whole network: three branches that read nothing of each other, and what they say of a video (SPEC §3–§6)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffvqa_rt.metrics.aigc_vqa.config import AigcVqaConfig
from diffvqa_rt.models.aigc_vqa.adapter import Adapter
from diffvqa_rt.models.aigc_vqa.convnext import ConvNextBackbone, ConvNextBlock
from diffvqa_rt.models.aigc_vqa.encoder import EncoderBlock
from diffvqa_rt.models.aigc_vqa.heads import MapHead
from diffvqa_rt.models.aigc_vqa.reward import Reward
from diffvqa_rt.models.aigc_vqa.swin import SwinBackbone, WindowAttention
from diffvqa_rt.models.aigc_vqa.text_encoder import TextEncoder
from diffvqa_rt.models.aigc_vqa.vision import VisionEncoder
from diffvqa_rt.models.pixels import IMAGENET_MEAN, IMAGENET_STD, PixelScaling


class Prediction(NamedTuple):
    """The branches' opinions of V videos; q_t and q_a are the means of the maps, s_a is the alignment score.

    Attributes:
        technical_map, aesthetic_map: Q_t and Q_a, [V, D, g, g].
        alignment_score: s_a, [V].
    """

    technical_map: Tensor
    aesthetic_map: Tensor
    alignment_score: Tensor


class TechnicalBranch(nn.Module):
    """`fragments` [V, T, 3, S, S] in [−1, 1] → Q_t [V, D, g, g]."""

    def __init__(self, config: AigcVqaConfig) -> None:
        super().__init__()
        self.grid = config.stage_grids[-1]
        self.pixels = PixelScaling(IMAGENET_MEAN, IMAGENET_STD)
        self.backbone = SwinBackbone(config)
        self.head = MapHead(config.swin.widths[-1], config.head_width)

    def forward(self, fragments: Tensor) -> Tensor:
        return self.head(self.backbone(self.pixels(fragments))).unflatten(1, self.grid)


class AestheticBranch(nn.Module):
    """`resized` [V, T, 3, S, S] in [−1, 1] → Q_a [V, D, g, g]."""

    def __init__(self, config: AigcVqaConfig) -> None:
        super().__init__()
        self.pixels = PixelScaling(IMAGENET_MEAN, IMAGENET_STD)
        self.backbone = ConvNextBackbone(config.convnext)
        self.head = MapHead(config.convnext.widths[-1], config.head_width)

    def forward(self, resized: Tensor) -> Tensor:
        return self.head(self.backbone(self.pixels(resized)))


def align(
    adapter: Adapter | None,
    text_encoder: TextEncoder,
    reward: Reward,
    frame_tokens: Tensor,
    token_ids: Tensor,
    token_mask: Tensor,
) -> Tensor:
    """s_a [V]: a prompt's [CLS] after it has looked at all tokens of all frames (eq. 4).

    Args:
        adapter, text_encoder, reward: the parts of the branch behind its vision encoder.
        frame_tokens: [V, T, P, C].
        token_ids, token_mask: [V, L] int64; 1 for tokens, 0 for padding.
    """
    if adapter is not None:
        frame_tokens = adapter(frame_tokens)
    return reward(text_encoder(token_ids, token_mask, frame_tokens.flatten(1, 2))[:, 0])


class AigcVqa(nn.Module):
    """The network. `forward` takes both views, [V, T, 3, S, S] in [−1, 1], and a prompt each, [V, L] int64."""

    def __init__(self, config: AigcVqaConfig) -> None:
        super().__init__()
        self.config = config
        width = config.vision.width
        self.technical = TechnicalBranch(config)
        self.aesthetic = AestheticBranch(config)
        self.vision = VisionEncoder(config)
        grid = config.view_size // config.vision.patch_size
        self.adapter = None if config.adapter is None else Adapter(width, grid, config.adapter)
        self.text_encoder = TextEncoder(config.text, width)
        self.reward = Reward(config.text.width, config.reward)

    def align(self, frame_tokens: Tensor, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """s_a [V] of what `vision` gave, [V, T, P, C], and of prompts."""
        return align(self.adapter, self.text_encoder, self.reward, frame_tokens, token_ids, token_mask)

    def forward(self, fragments: Tensor, resized: Tensor, token_ids: Tensor, token_mask: Tensor) -> Prediction:
        return Prediction(
            technical_map=self.technical(fragments),
            aesthetic_map=self.aesthetic(resized),
            alignment_score=self.align(self.vision(resized), token_ids, token_mask),
        )

    def encoder_blocks(self) -> dict[str, list[EncoderBlock]]:
        """The blocks of each encoder from its input on, each with what stands right before it (SPEC §8)."""
        return {
            "technical": self.technical.backbone.encoder_blocks(),
            "aesthetic": self.aesthetic.backbone.encoder_blocks(),
            "vision": self.vision.encoder_blocks(),
            "text": self.text_encoder.encoder_blocks(),
        }


def random_network(config: AigcVqaConfig, seed: int = 0) -> AigcVqa:
    """The network with seeded random weights, in evaluation mode: untrained, but the same on every machine.

    What training starts at 0 or near it would hide what it multiplies from the checks that these weights serve: the
    ConvNeXt's gammas, the tables of biases and the adapter's convolution are of ordinary size, and the reward's layers
    keep the size of what they are given.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AigcVqa(config)
        for module in network.modules():
            if isinstance(module, ConvNextBlock):
                nn.init.uniform_(module.gamma, 0.5, 1.0)
            elif isinstance(module, WindowAttention):
                for table in (module.relative_position_bias_table, module.fragment_position_bias_table):
                    if table is not None:
                        nn.init.normal_(table, std=0.5)
            elif isinstance(module, Adapter):
                module.conv.reset_parameters()
            elif isinstance(module, Reward):
                for layer in module.layers:
                    if isinstance(layer, nn.Linear):
                        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    return network.eval()
