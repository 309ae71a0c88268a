"""How the bundled `tiny` weights are made, from nothing: `make weights`.

    python -m diffvqa_rt.training.recipe --work build/weights

The pool and the synthetic set, then the VAE, the UNet, the Controller and the head in turn, each on the training
contents alone and frozen once it is trained; at last the weights in float16. A run that was stopped goes on.
"""

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from diffvqa_rt.config import DiffVQAConfig
from diffvqa_rt.models.checkpoints import load_weights, save_weights
from diffvqa_rt.models.diffvqa import random_network
from diffvqa_rt.presets import TINY
from diffvqa_rt.training.autoencoder import AutoencoderObjective, autoencoder, normalize_latents
from diffvqa_rt.training.denoising import DenoisingObjective
from diffvqa_rt.training.loop import FitConfig, Objective, StepBatches, fit
from diffvqa_rt.training.manifest import MANIFEST, read_manifest
from diffvqa_rt.training.pictures import PictureBatches

# Pictures that the latents' mean and deviation are taken over.
_NORMALIZED_OVER = 512
# bfloat16 halves the VAE's time on a processor that multiplies it natively, and does the others no good.
_VAE = FitConfig(steps=2000, learning_rate=1e-3, weight_decay=0.0, schedule="cosine", mixed_precision="bf16", seed=1)
_UNET = FitConfig(steps=2500, learning_rate=1e-3, weight_decay=0.0, schedule="cosine", seed=2)
_CONTROLLER = FitConfig(steps=2000, learning_rate=5e-4, weight_decay=1e-2, schedule="cosine", seed=3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What decides the weights, besides the synthetic set. Batches are pictures for the VAE and for denoising (of four
    noises each, so that the VAE's share of a step is small), and videos for the head.
    """

    network: DiffVQAConfig = TINY
    vae: FitConfig = _VAE
    vae_batch: int = 12
    vae_patch: int = 128
    unet: FitConfig = _UNET
    controller: FitConfig = _CONTROLLER
    denoising_batch: int = 8
    draws: int = 4


class Kitchen:
    """Where one set of weights is made: each stage leaves a file in `work`, and is not made again."""

    def __init__(self, recipe: Recipe, work: Path, workers: int) -> None:
        self._recipe, self._work, self._workers = recipe, work, workers
        self._set = work / "synthetic"

    def pictures(self, batch: int, seed: int) -> PictureBatches:
        files = [self._set / clip.file for clip in read_manifest(self._set) if clip.split == "train"]
        config = self._recipe.network
        return PictureBatches(files, batch=batch, per_file=4, frames=config.frames, size=config.view_size, seed=seed)

    def fit(self, name: str, objective: Objective, batches: StepBatches, config: FitConfig) -> None:
        """Trains, with a bar on a terminal."""
        accelerator = Accelerator(mixed_precision=config.mixed_precision)
        with tqdm(total=config.steps, desc=name, unit="step", file=sys.stderr, disable=None) as bar:

            def show(done: int, scalars: Mapping[str, float]) -> None:
                bar.update(done - bar.n)
                bar.set_postfix({key: f"{value:.4g}" for key, value in scalars.items()})

            fit(
                objective,
                batches,
                replace(config, workers=self._workers),
                self._work / name,
                describes={"set": sha256_of(self._set / MANIFEST)},
                accelerator=accelerator,
                on_step=show,
            )

    def vae(self) -> Path:
        """The autoencoder's weights: our encoder and its decoder, the latents normalised."""
        path, recipe = self._work / "vae.safetensors", self._recipe
        if path.exists():
            return path
        torch.manual_seed(recipe.vae.seed)
        trained = autoencoder(recipe.network.vae)
        batches = self.pictures(recipe.vae_batch, recipe.vae.seed)
        self.fit("vae", AutoencoderObjective(trained, recipe.vae_patch), batches, recipe.vae)
        trained = trained.cpu().eval()
        unseen = range(recipe.vae.steps, recipe.vae.steps + _NORMALIZED_OVER // recipe.vae_batch)
        normalize_latents(trained, torch.cat([batches[step]["pictures"] for step in unseen]))
        _save(trained.state_dict(), path)
        return path

    def unet(self) -> Path:
        return self._denoising("unet", self.vae(), self._recipe.unet)

    def controller(self) -> Path:
        return self._denoising("controller", self.unet(), self._recipe.controller)

    def _denoising(self, trains: Literal["unet", "controller"], before: Path, config: FitConfig) -> Path:
        path, recipe = self._work / f"{trains}.safetensors", self._recipe
        if path.exists():
            return path
        if trains == "unet":
            network = random_network(recipe.network, config.seed)
            weights = load_file(before)
            network.extractor.vae.load_state_dict({name: weights[name] for name in network.extractor.vae.state_dict()})
        else:
            network, _ = load_weights(before)
            network.extractor.controller.copy_from_unet(network.extractor.unet)
        objective = DenoisingObjective(network.extractor, trains=trains, draws=recipe.draws)
        self.fit(trains, objective, self.pictures(recipe.denoising_batch, config.seed), config)
        part = path.with_suffix(".part")
        save_weights(network.cpu(), part, is_trained=False)
        os.replace(part, path)
        return path


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    part = path.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    os.replace(part, path)


def main(argv: list[str] | None = None) -> int:
    kitchen = Kitchen(Recipe(), Path("/work/run"), 1)
    print(getattr(kitchen, argv[0])())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
