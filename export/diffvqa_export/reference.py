"""What float32 torch computes on a real clip: every engine's inputs and outputs, kept on disk for the comparisons."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.engines.torch_backend import torch_engines
from diffvqa_rt.metrics.diffvqa.engines import FEATURES
from diffvqa_rt.models.diffvqa.network import DiffVQA

Arrays = dict[str, NDArray]
FILE = "reference.npz"


def record_reference(network: DiffVQA, views: NDArray[np.float32], folder: Path) -> None:
    """Plays the network on views [1, 2N, 3, S, S] and writes what passes the engines' borders into the folder.

    Of the feature maps only the last step's, the ones that the head reads: those of all steps are 2 GB at full size.
    """
    engines, steps = torch_engines(network), network.config.sampler.steps
    z0 = engines["vae_encoder"]({"frames": views})["z0"]
    latents = [np.zeros_like(z0)]
    outputs: Arrays = {}
    for step in range(steps):
        outputs = engines["unet_controller"]({"z": latents[-1], "z0": z0, "step": np.array([step])})
        latents.append(outputs["z_next"])
    features = {name: outputs[name] for name in FEATURES}
    head = engines["head"]({"z0_hat": latents[-1], **features, "frames": views})
    arrays: dict[str, Any] = {"frames": views, "z0": z0, "latents": np.stack(latents), **features, **head}
    np.savez(folder / FILE, **arrays)


class Reference:
    """A recorded reference. `calls` replays it, engine by engine."""

    def __init__(self, folder: Path) -> None:
        with np.load(folder / FILE, allow_pickle=False) as file:
            self._arrays = {name: file[name] for name in file.files}

    @property
    def views(self) -> NDArray[np.float32]:
        return self._arrays["frames"]

    @property
    def score(self) -> float:
        return float(self._arrays["score"][0])

    def calls(self, frames: slice) -> Iterator[tuple[str, Arrays, Arrays]]:
        """(engine, inputs, expected outputs) in the order of a video's way; `frames` of the per-frame engines."""
        a = self._arrays
        z0, latents = a["z0"][:, frames], a["latents"][:, :, frames]
        yield "vae_encoder", {"frames": a["frames"][:, frames]}, {"z0": z0}
        last = len(latents) - 2
        for step, (z, z_next) in enumerate(pairwise(latents)):
            features = _named(a, FEATURES, frames) if step == last else {}
            yield "unet_controller", {"z": z, "z0": z0, "step": np.array([step])}, {"z_next": z_next, **features}
        everything = slice(None)
        inputs = {"z0_hat": a["latents"][-1], **_named(a, FEATURES, everything), "frames": a["frames"]}
        yield "head", inputs, _named(a, ("score", "frame_scores", "frame_weights"), everything)


def _named(arrays: Mapping[str, NDArray], names: tuple[str, ...], frames: slice) -> Arrays:
    return {name: arrays[name][:, frames] if arrays[name].ndim > 1 else arrays[name] for name in names}
