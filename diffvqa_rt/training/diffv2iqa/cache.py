"""The cache of restored crops: T steps of the restorer are most of the work of training, and run once (SPEC §8)."""

from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from diffvqa_rt.decoding import shared_decoder
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.diffv2iqa.config import PICTURES, DiffV2IQAConfig
from diffvqa_rt.metrics.diffv2iqa.engines import PIXELS
from diffvqa_rt.metrics.diffv2iqa.views import cut_views
from diffvqa_rt.models.diffv2iqa.network import DiffV2IQA
from diffvqa_rt.models.diffv2iqa.restoration import RestorationStep, restore
from diffvqa_rt.models.weights import weights_sha256
from diffvqa_rt.training.entry_cache import CropOfVideo, EntryCache
from diffvqa_rt.video import DECODING_VERSION

# Goes up when the same pictures and restorer are to give other entries.
_FORMAT = 1
# Of a network's description, what decides a view and its restoration.
_DECIDES = ("view_size", "view", "sampler", "kept", "restorer")


def view_of(config: DiffV2IQAConfig, entry: CropOfVideo) -> Tensor:
    """The view of a picture, or of a video's middle frame, that is the entry's crop; uint8 [3, S, S].

    Raises:
        VideoDecodeError: the file cannot be read.
    """
    frames = shared_decoder().frames(entry.path, 1).frames
    return torch.from_numpy(cut_views(config, frames, Request(crops=entry.crop + 1, frames=1))[entry.crop])


class Restoring:
    """Makes an entry: from a view x, uint8 [3, S, S], to `x`, `y_0`, `y_t1` and `y_t2`, of the same kind.

    A stored picture is clamped as the branches clamp it (D8), and within half a grey level of what scoring has.

    Attributes:
        description: all that decides an entry, but for the picture.
    """

    def __init__(self, network: DiffV2IQA, accelerator: Accelerator, decoding_version: int = DECODING_VERSION) -> None:
        described = network.config.as_dict()
        self.description = {
            "format": _FORMAT,
            "decoding": decoding_version,
            "weights": weights_sha256(network.restorer),
            "network": {name: described[name] for name in _DECIDES},
            "precision": str(accelerator.mixed_precision),
            "runtime": f"torch on {accelerator.device.type}",
        }
        self._config = network.config
        self._accelerator = accelerator
        self._step = RestorationStep(network.restorer, network.config).to(accelerator.device)

    @torch.no_grad()
    def __call__(self, view: Tensor) -> dict[str, Tensor]:
        x = torch.from_numpy(PIXELS.normalize(view[None].numpy())).to(self._accelerator.device)
        with self._accelerator.autocast():
            restored = restore(self._step, x, self._config)
        stored = [((y[0].float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte() for y in restored]
        return dict(zip(PICTURES, [view, *stored], strict=True))


class RestoredCache(EntryCache):
    """Entries of one restorer, `Restoring`'s. Crop c of a picture is the c-th that scoring would look at."""

    def __init__(self, folder: Path, restoring: Restoring, config: DiffV2IQAConfig, *, max_bytes: int) -> None:
        self.config = config
        super().__init__(
            folder,
            what="restored crops",
            maker=restoring.description,
            entry_bytes=len(PICTURES) * 3 * config.view_size**2,
            max_bytes=max_bytes,
        )
