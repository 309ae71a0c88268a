"""The decoder half of Stable Diffusion's VAE. No score needs it: it shows what a latent holds."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from diffvqa_rt.metrics.diffvqa.config import VaeConfig
from diffvqa_rt.models.diffvqa.checkpoints import diffusers_file, read_autoencoder
from diffvqa_rt.models.weights import fill_module, write_safetensors

_PARTS = ("decoder.", "post_quant_conv.")


def autoencoder(config: VaeConfig) -> AutoencoderKL:
    """Diffusers' autoencoder, untrained, whose encoder has the names and shapes of `models.vae.VaeEncoder`."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(config.channels),
        up_block_types=("UpDecoderBlock2D",) * len(config.channels),
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        scaling_factor=config.scaling_factor,
    )


class VaeDecoder(nn.Module):
    """Latents to frames: what undoes `models.vae.VaeEncoder`, under diffusers' `AutoencoderKL` state-dict names.

    Args of `forward`: latents [B, latent_channels, h, w], scaled as the encoder gives them. Returns frames
    [B, 3, 8h, 8w] in [−1, 1], but for what the decoder overshoots.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.scaling_factor = config.scaling_factor
        whole = autoencoder(config)
        self.post_quant_conv = whole.post_quant_conv
        self.decoder = whole.decoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents / self.scaling_factor))


def load_decoder(path: Path, config: VaeConfig) -> VaeDecoder:
    """The decoder of a VAE, in float32 and evaluation mode.

    Args:
        path: a Stable Diffusion folder in diffusers' layout, or a safetensors file with an `AutoencoderKL`'s tensors
            `decoder.*` and `post_quant_conv.*`, in half precision or full; what else it holds is left out.
        config: of the VAE, which the weights' file of the network describes.

    Raises:
        ValueError: the file can't be read, or a tensor is missing or of another shape.
    """
    file = diffusers_file(path, "vae") if path.is_dir() else path
    # No storage of its own first: the file's tensors become the weights.
    with torch.device("meta"):
        decoder = VaeDecoder(config)
    weights = {name: tensor.float() for name, tensor in read_autoencoder(file, _PARTS).items()}
    fill_module(decoder, weights, file, assign=True)
    return decoder.eval()


def save_decoder(decoder: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """A file for `load_decoder`, from a `VaeDecoder` or a whole `AutoencoderKL`."""
    weights = {name: tensor.to(dtype) for name, tensor in decoder.state_dict().items() if name.startswith(_PARTS)}
    write_safetensors(weights, path)
