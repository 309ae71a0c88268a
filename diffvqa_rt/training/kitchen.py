"""Where the bundled `tiny` weights are made: the stages of a `Recipe`."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffvqa_rt.config import DiffVQAConfig
from diffvqa_rt.errors import TrainingError
from diffvqa_rt.models.checkpoints import load_weights, save_weights, weights_sha256
from diffvqa_rt.models.diffvqa import DiffVQA, random_network
from diffvqa_rt.training.autoencoder import AutoencoderObjective, normalize_latents, start_as_identity
from diffvqa_rt.training.decoder import autoencoder, save_decoder
from diffvqa_rt.training.denoising import DenoisingObjective, Trained, Visited
from diffvqa_rt.training.extraction import EngineExtractor, Extractor, TorchExtractor, fill_cache
from diffvqa_rt.training.features import CropOfVideo, FeatureCache
from diffvqa_rt.training.files import write_whole
from diffvqa_rt.training.fit_arguments import item_bar, step_bar
from diffvqa_rt.training.head import (
    HeadBatches,
    HeadObjective,
    LabelledVideo,
    predict_videos,
    some_ladders,
    videos_digest,
    videos_from_set,
)
from diffvqa_rt.training.ladders import LadderAgreement, agreement_of
from diffvqa_rt.training.loop import FitConfig, Objective, StepBatches, fit
from diffvqa_rt.training.manifest import MANIFEST, read_manifest
from diffvqa_rt.training.pictures import PictureBatches, StoredPictures, media_digest, store_pictures
from diffvqa_rt.training.pool import fetch_pool
from diffvqa_rt.training.recipe import Recipe
from diffvqa_rt.training.start import start_alike_everywhere, with_new_head
from diffvqa_rt.training.synthetic import SyntheticConfig, make_synthetic_set
from diffvqa_rt.training.tcab_pretraining import (
    ReadTcab,
    ReadTcabObjective,
    VersionPairs,
    grow,
    start_as_frequencies,
    start_from_tcab,
    store_frames,
)

# Of the TCAB's pairs, that its patches are measured on before it learns.
_MEASURED_BATCHES = 8


class Kitchen:
    """Where one set of weights is made: each stage leaves a file in `work`, and is not made again."""

    def __init__(self, recipe: Recipe, work: Path, *, workers: int = 1, engines: Path | None = None) -> None:
        self.recipe, self.work, self._workers, self._engines = recipe, work, workers, engines
        self.set = work / "synthetic"

    def synthetic_set(self, pool: Path, clips: Path | None) -> None:
        """The set, made or completed; on stderr, which sources it is without.

        Raises:
            DiffVQAError: no source is to be had.
        """
        if (self.set / MANIFEST).exists():
            return
        config = SyntheticConfig(
            out=self.set, ladders_per_scene=self.recipe.ladders_per_scene, jobs=os.cpu_count() or 1
        )
        found = fetch_pool(pool, clips)
        for sentence in found.missing:
            print(f"left out, so that the weights will be others: {sentence}", file=sys.stderr)
        with item_bar("synthetic set") as show:
            make_synthetic_set(config, found, show)

    def vae(self) -> Path:
        """The autoencoder's weights: our encoder and its decoder, the latents normalised."""
        path, recipe = self.work / "vae.safetensors", self.recipe
        if path.exists():
            return path
        torch.manual_seed(recipe.vae.seed)
        trained = autoencoder(recipe.network.vae)
        start_as_identity(trained)
        batches = self._pictures(recipe.vae_batch, recipe.vae.seed)
        describes = {"batch": recipe.vae_batch, "patch": recipe.vae_patch, "pictures": self._pictures_digest()}
        self._fit("vae", AutoencoderObjective(trained, recipe.vae_patch), batches, recipe.vae, describes)
        trained.cpu()
        steps = range(recipe.vae.steps, recipe.vae.steps + recipe.normalized_over // recipe.vae_batch)
        normalize_latents(trained, torch.cat([batches[step]["pictures"] for step in steps]))
        _save_halved(trained.state_dict(), path)
        return path

    def decoder(self) -> Path:
        """The other half of the VAE, which shows what latents hold."""
        path = self.work / "decoder.safetensors"
        if not path.exists():
            trained = autoencoder(self.recipe.network.vae)
            trained.load_state_dict(load_file(self.vae()))
            write_whole(path, lambda part: save_decoder(trained, part, torch.float16))
        return path

    def unet(self) -> Path:
        """A network whose VAE and UNet are trained."""
        return self._denoising("unet", self.vae, self.recipe.unet)

    def controller(self) -> Path:
        """A network whose extractor is trained: the Controller on the noise that the sampler leaves."""
        return self._denoising("controller", self.unet, self.recipe.controller)

    def _denoising(self, trains: Trained, before: Callable[[], Path], config: FitConfig) -> Path:
        path, recipe = self.work / f"{trains}.safetensors", self.recipe
        if path.exists():
            return path
        if trains == "unet":
            network, weights = random_network(recipe.network, config.seed), load_file(before())
            network.extractor.null_prompt.copy_(network.extractor.null_prompt.half())
            network.extractor.vae.load_state_dict({name: weights[name] for name in network.extractor.vae.state_dict()})
        else:
            network, _ = load_weights(before())
            network.extractor.controller.copy_from_unet(network.extractor.unet)
        visits: Visited = "sampler" if trains == "controller" else "schedule"
        objective = DenoisingObjective(network.extractor, trains=trains, draws=recipe.draws, visits=visits)
        batches = self._pictures(recipe.denoising_batch, config.seed)
        describes = {"start": weights_sha256(network), "batch": recipe.denoising_batch, "draws": recipe.draws}
        self._fit(trains, objective, batches, config, describes | {"pictures": self._pictures_digest()})
        write_whole(path, lambda part: save_weights(network.cpu(), part, is_trained=False, dtype=torch.float16))
        return path

    def tcab(self) -> ReadTcab:
        """A TCAB that has learned the quality of clips, of all the training contents' ladders."""
        path, config, lessons = self.work / "tcab.safetensors", self.recipe.network, self.recipe.tcab
        if path.exists():
            learned = ReadTcab(config, frames=config.frames)
            try:
                learned.load_state_dict(load_file(path))
            except RuntimeError as error:
                raise TrainingError(f"{path} is of another recipe; delete it and head.safetensors to go on") from error
            return learned
        videos, stored = videos_from_set(self.set, "train"), self.work / "frames.npy"
        if not stored.exists():
            with item_bar("frames") as show:
                store_frames(videos, config.frames, stored, show)
        torch.manual_seed(lessons[0].fit.seed)
        learned = ReadTcab(config, frames=lessons[0].frames, across=lessons[0].across)
        for number, lesson in enumerate(lessons):
            size, steps = config.view_size // lesson.across, lesson.fit.steps
            pairs = VersionPairs(
                videos, stored, batch=lesson.batch, frames=lesson.frames, size=size, seed=lesson.fit.seed
            )
            if number == 0:
                measured = torch.cat([pairs[steps + index]["frames"] for index in range(_MEASURED_BATCHES)])
                start_as_frequencies(learned.tcab.patch_embed.proj, measured.flatten(0, 1))
            else:
                learned = grow(learned.cpu(), config, frames=lesson.frames, across=lesson.across)
            lessons_so_far = [asdict(taught) for taught in lessons[: number + 1]]
            describes = {"videos": videos_digest(videos), "lessons": lessons_so_far}
            self._fit(lesson.name, ReadTcabObjective(learned, config), pairs, lesson.fit, describes)
        _save_halved(learned.cpu().state_dict(), path)
        return self.tcab()

    def head(self) -> Path:
        """The whole network, trained."""
        path, recipe = self.work / "head.safetensors", self.recipe
        if not path.exists():
            train = self.videos("train", recipe.train_ladders_per_scene)
            network, cache = self.adapted(train)
            network = self.train_head("head", network, network.config, train, cache, recipe.head_epochs)
            write_whole(path, lambda part: save_weights(network, part, is_trained=True, dtype=torch.float16))
        return path

    def report(self) -> list[LadderAgreement]:
        """How the bundled weights' scores follow the labels and ladders of contents that no stage has seen."""
        held_out = self.videos("validation", self.recipe.held_out_ladders_per_scene)
        _, cache = self.adapted(held_out)
        network, _ = load_weights(self.head())
        return agreement_of(held_out, predict_videos(network, held_out, cache), self.set)

    def videos(self, split: str, ladders_per_scene: int) -> list[LabelledVideo]:
        """What the head learns from or is tested on: this many of each scene's ladders, since features take hours."""
        return some_ladders(videos_from_set(self.set, split), ladders_per_scene)

    def adapted(self, videos: Sequence[LabelledVideo]) -> tuple[DiffVQA, FeatureCache]:
        """The network whose extractor is trained, and its features of the videos; by the engines where given."""
        network, _ = load_weights(self.controller())
        extract: Extractor
        if self._engines is None:
            extract = TorchExtractor(network, Accelerator())
        else:
            extract = EngineExtractor(self._engines, network, "onnx")
        return network, self.features(network, extract, videos)

    def features(self, network: DiffVQA, extract: Extractor, videos: Sequence[LabelledVideo]) -> FeatureCache:
        """The features of the videos, in a cache that all stages share."""
        max_bytes = self.recipe.cache_bytes
        cache = FeatureCache(self.work / "features", network, precision=extract.precision, max_bytes=max_bytes)
        entries = [CropOfVideo(video.path) for video in videos]
        with item_bar("features") as show:
            fill_cache(cache, entries, extract, Accelerator(), workers=self._workers, on_progress=show)
        return cache

    def train_head(
        self,
        name: str,
        extractor: DiffVQA,
        config: DiffVQAConfig,
        videos: Sequence[LabelledVideo],
        cache: FeatureCache,
        epochs: int,
    ) -> DiffVQA:
        """The extractor with a new head of `config`: TCABs from `tcab`, the rest trained as the run `name`."""
        recipe = self.recipe
        batches = HeadBatches(videos, cache, batch=recipe.head_batch, crops=1, processes=1, seed=recipe.head.seed)
        fitted = replace(recipe.head, steps=epochs * batches.steps_per_epoch)
        network = with_new_head(extractor, config, recipe.head.seed)
        start_alike_everywhere(network)
        start_from_tcab(network, self.tcab())
        describes = {"start": weights_sha256(network), "videos": videos_digest(videos), "batch": recipe.head_batch}
        self._fit(name, HeadObjective(network), batches, fitted, describes)
        return network.cpu()

    def _pictures(self, batch: int, seed: int) -> StoredPictures:
        path, recipe, config = self.work / "pictures.npy", self.recipe, self.recipe.network
        if not path.exists():
            drawn = PictureBatches(
                self._training_files(),
                batch=recipe.pictures_per_file,
                per_file=recipe.pictures_per_file,
                frames=config.frames,
                size=config.view_size,
                seed=recipe.pictures_seed,
            )
            with item_bar("pictures") as show:
                store_pictures(drawn, recipe.pictures, path, show)
        return StoredPictures(path, batch=batch, seed=seed)

    def _training_files(self) -> list[Path]:
        return [self.set / clip.file for clip in read_manifest(self.set) if clip.split == "train"]

    def _pictures_digest(self) -> str:
        """Of what the stored pictures were drawn from, and how."""
        recipe = self.recipe
        drawn = f"{recipe.pictures} {recipe.pictures_per_file} {recipe.pictures_seed}"
        return f"{drawn} {media_digest(self._training_files())}"

    def _fit(
        self, name: str, objective: Objective, batches: StepBatches, config: FitConfig, describes: Mapping[str, Any]
    ) -> None:
        accelerator = Accelerator()
        config = replace(config, workers=self._workers)
        with step_bar(name, config.steps) as show:
            fit(
                objective,
                batches,
                config,
                self.work / name,
                describes=describes,
                accelerator=accelerator,
                on_step=show,
            )


def _save_halved(tensors: Mapping[str, Tensor], path: Path) -> None:
    halved = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda part: save_file(halved, part))
