"""The alignment branch's vision encoder, BLIP's ViT, under its names, which are timm's (SPEC §5)."""

import torch
from torch import Tensor, nn

from diffvqa_rt.metrics.aigc_vqa.config import AigcVqaConfig
from diffvqa_rt.models.aigc_vqa.encoder import EncoderBlock, encoder_blocks
from diffvqa_rt.models.pixels import PixelScaling
from diffvqa_rt.models.transformer import PatchEmbedding, SelfAttention, TransformerBlock

_MLP_RATIO = 4
_EPS = 1e-6
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class VisionEncoder(nn.Module):
    """Frames [V, frames, 3, S, S] in [−1, 1] → the tokens of each, the class token first: [V, frames, P, C].

    Any number of frames goes: they do not see each other.
    """

    def __init__(self, config: AigcVqaConfig) -> None:
        super().__init__()
        vision = config.vision
        self.pixels = PixelScaling(_CLIP_MEAN, _CLIP_STD)
        self.patch_embed = PatchEmbedding(vision.width, vision.patch_size)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, vision.width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, config.frame_tokens, vision.width))
        last = max(vision.depth - 1, 1)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                vision.width,
                SelfAttention(vision.width, vision.heads),
                mlp_width=_MLP_RATIO * vision.width,
                eps=_EPS,
                drop_path=vision.drop_path * index / last,
            )
            for index in range(vision.depth)
        )
        self.norm = nn.LayerNorm(vision.width, eps=_EPS)

    def encoder_blocks(self) -> list[EncoderBlock]:
        return encoder_blocks((self.patch_embed, self.cls_token, self.pos_embed), self.blocks)

    def forward(self, frames: Tensor) -> Tensor:
        patches = self.patch_embed(self.pixels(frames.flatten(0, 1)))
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens).unflatten(0, frames.shape[:2])
