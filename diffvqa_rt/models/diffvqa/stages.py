"""The network cut at the engines' borders: one module per engine, tensors as `diffvqa_rt.specs` names them."""

from torch import Tensor, nn

from diffvqa_rt.models.diffvqa.diffusion import DenoisingStep
from diffvqa_rt.models.diffvqa.network import DiffVQA, Head
from diffvqa_rt.models.diffvqa.vae import VaeEncoder
from diffvqa_rt.models.registry import MetricModels


class VaeEncoderStage(nn.Module):
    """frames [V, 2N, 3, S, S] → z0 [V, 2N, C, h, w]."""

    def __init__(self, vae: VaeEncoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, frames: Tensor) -> tuple[Tensor]:
        return (self.vae(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]),)


class HeadStage(nn.Module):
    """F_Latent, the four feature maps of the last step and the frames → score, frame_scores, frame_weights."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(
        self,
        z0_hat: Tensor,
        features_0: Tensor,
        features_1: Tensor,
        features_2: Tensor,
        features_3: Tensor,
        frames: Tensor,
    ) -> tuple[Tensor, ...]:
        return tuple(self.head(z0_hat, [features_0, features_1, features_2, features_3], frames))


def stage_modules(network: DiffVQA) -> dict[str, nn.Module]:
    """The network's engines by name, in evaluation mode."""
    stages = {
        "vae_encoder": VaeEncoderStage(network.extractor.vae),
        "unet_controller": DenoisingStep(network.extractor),
        "head": HeadStage(network.head),
    }
    return {name: stage.eval() for name, stage in stages.items()}


MODELS = MetricModels(network=DiffVQA, stages=stage_modules)
