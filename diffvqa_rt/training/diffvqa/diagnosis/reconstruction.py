"""The extractor's picture of a frame: the VAE's round trip, and the latent that K steps find again (paper, fig. 4)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffvqa_rt.metrics.diffvqa.config import VIEWS
from diffvqa_rt.metrics.diffvqa.views import make_views
from diffvqa_rt.models.diffvqa.diffusion import DenoisingStep, reconstruct
from diffvqa_rt.models.diffvqa.network import DiffVQA
from diffvqa_rt.training.diffvqa.decoder import VaeDecoder
from diffvqa_rt.video.crops import RgbFrame


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """The K steps' ẑ0 beside the z0 that they were to find.

    `picture` is ẑ0 decoded, [S, S, 3] uint8, and `picture_psnr_db` compares it with the view. `error` is |ẑ0 − z0|, the
    mean over channels, [h, w]. `latent_psnr_db` compares ẑ0 with z0; its peak is the range of this z0, maximum less
    minimum.
    """

    picture: RgbFrame
    picture_psnr_db: float
    error: NDArray[np.float32]
    latent_psnr_db: float


@dataclass(frozen=True, slots=True, eq=False)
class Reconstruction:
    """One view of one frame, [S, S, 3] uint8, and what comes back of it: by the VAE alone, and by way of ẑ0.

    `adapted` is the extractor's own; in `unadapted` the frozen UNet has no Controller, and so knows nothing of z0 but
    what the noise left of it.
    """

    name: str
    view: str
    frame: RgbFrame
    round_trip: RgbFrame
    round_trip_psnr_db: float
    adapted: Attempt
    unadapted: Attempt


class Reconstructor:
    """Shows single frames to an extractor, and decodes what it makes of them."""

    @torch.inference_mode()
    def __init__(self, network: DiffVQA, decoder: VaeDecoder) -> None:
        self._config = network.config
        self._vae = network.extractor.vae
        self._decoder = decoder
        self._adapted = DenoisingStep(network.extractor)
        self._unadapted = DenoisingStep(network.extractor)
        self._unadapted.add_module("controller", _NoController())

    @torch.inference_mode()
    def reconstruct(self, name: str, frame: RgbFrame, seed: int = 0) -> list[Reconstruction]:
        """Both views of a frame [H, W, 3] uint8 RGB; `seed` says where the distortion view is cropped."""
        device = next(self._vae.parameters()).device
        views = torch.from_numpy(make_views([frame], self._config.view_size, seed)[0]).to(device)
        z0 = self._vae(views)
        decoded = self._decode(z0)
        adapted, unadapted = (self._attempt(step, z0, views) for step in (self._adapted, self._unadapted))
        return [
            Reconstruction(
                name=name,
                view=view,
                frame=_pixels(views[i]),
                round_trip=_pixels(decoded[i]),
                round_trip_psnr_db=_pixel_psnr_db(decoded[i], views[i]),
                adapted=adapted[i],
                unadapted=unadapted[i],
            )
            for i, view in enumerate(VIEWS)
        ]

    def _attempt(self, step: DenoisingStep, z0: Tensor, views: Tensor) -> list[Attempt]:
        latents, _ = reconstruct(step, z0[None], self._config.sampler.steps)
        decoded = self._decode(latents[0])
        return [
            Attempt(
                picture=_pixels(picture),
                picture_psnr_db=_pixel_psnr_db(picture, view),
                error=(latent - target).abs().mean(dim=0).cpu().numpy(),
                latent_psnr_db=psnr_db(latent, target, peak=float(target.max() - target.min())),
            )
            for picture, view, latent, target in zip(decoded, views, latents[0], z0, strict=True)
        ]

    def _decode(self, latents: Tensor) -> Tensor:
        return self._decoder(latents).clamp(-1, 1)


class _NoController(nn.Module):
    """In the Controller's place: the UNet gets nothing to add to its skips."""

    def forward(self, *_: object) -> None:
        return None


def psnr_db(x: Tensor, reference: Tensor, peak: float) -> float:
    """10 log10(peak² / mean squared error), infinite where there is no error."""
    mse = float((x - reference).square().mean())
    return 10 * np.log10(peak**2 / mse).item() if mse else float("inf")


def _pixel_psnr_db(picture: Tensor, view: Tensor) -> float:
    return psnr_db(picture, view, peak=2.0)


def _pixels(picture: Tensor) -> RgbFrame:
    """From [3, S, S] in [−1, 1] to [S, S, 3] uint8."""
    return ((picture + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
