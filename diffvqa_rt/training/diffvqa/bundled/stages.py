"""The stages of a `Recipe`, each of which leaves a file."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.files import make_folder, write_whole
from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.models.diffvqa.checkpoints import load_weights
from diffvqa_rt.models.diffvqa.network import DiffVQA, random_network
from diffvqa_rt.models.weights import save_weights, weights_sha256, write_safetensors
from diffvqa_rt.synthetic.agreement.ladders import LadderAgreement, agreement_of
from diffvqa_rt.synthetic.clip_table import read_manifest
from diffvqa_rt.synthetic.labelled import (
    LabelledVideo,
    some_ladders,
    videos_digest,
    videos_from_set,
    with_views,
)
from diffvqa_rt.synthetic.make import SyntheticConfig, make_synthetic_set
from diffvqa_rt.synthetic.pool import Pool, fetch_pool
from diffvqa_rt.synthetic.views import ViewsConfig
from diffvqa_rt.training.arguments import item_bar, step_bar
from diffvqa_rt.training.diffvqa.bundled.autoencoder import AutoencoderObjective, normalize_latents, start_as_identity
from diffvqa_rt.training.diffvqa.bundled.head_start import diffusion_alone, start_from_parts
from diffvqa_rt.training.diffvqa.bundled.kept_pictures import KeptPictures, draw_pictures, kept_views
from diffvqa_rt.training.diffvqa.bundled.recipe import Recipe
from diffvqa_rt.training.diffvqa.bundled.tcab_pretraining import (
    ReadTcab,
    ReadTcabObjective,
    VersionPairs,
    grow,
    start_as_frequencies,
)
from diffvqa_rt.training.diffvqa.decoder import autoencoder, save_decoder
from diffvqa_rt.training.diffvqa.denoising import DenoisingObjective, Trained, Visited
from diffvqa_rt.training.diffvqa.extraction import EngineExtractor, Extractor, TorchExtractor, fill_cache
from diffvqa_rt.training.diffvqa.features import FeatureCache
from diffvqa_rt.training.diffvqa.head import HeadObjective, predict_videos
from diffvqa_rt.training.diffvqa.start import start_alike_everywhere, with_new_head
from diffvqa_rt.training.entry_cache import CropOfVideo
from diffvqa_rt.training.loop import FitConfig, Objective, OnProgress, StepBatches, fit
from diffvqa_rt.training.opinions import OpinionBatches
from diffvqa_rt.video import DECODING_VERSION

# Of the TCAB's pairs, that its patches are measured on before it learns.
_MEASURED_BATCHES = 8


class WeightsBuild:
    """The build of one network's weights: each stage leaves a file in `work`, and is not made again.

    Networks that differ in their sampler alone share `work`, and in it the set, the VAE, the UNet and the TCAB; the
    Controller and the head are in a folder of the network's name.

    Args:
        engines: a folder that has an engine folder of the Controller's stage under the network's name.
    """

    def __init__(self, recipe: Recipe, work: Path, *, workers: int = 1, engines: Path | None = None) -> None:
        self.recipe, self.work, self._workers = recipe, work, workers
        self._engines = None if engines is None else engines / recipe.network.name
        self.set = work / "synthetic"
        self._own = work / recipe.network.name

    def synthetic_set(
        self,
        pool: Path,
        media: Path | None,
        *,
        fetch: Callable[[Path, Path | None], Pool] = fetch_pool,
        make: Callable[[SyntheticConfig, Pool, OnProgress], object] = make_synthetic_set,
    ) -> None:
        """Makes or completes the set; names on stderr the sources that it is without.

        Args:
            pool, media: folders, as for `fetch_pool`.
            fetch: gets the pristine media.
            make: makes the set of them.

        Raises:
            DiffVQAError: no source is to be had.
        """
        # Its manifest does not tell: a run that was stopped leaves one of what it had made.
        made = self.work / "synthetic.made"
        if made.exists():
            return
        recipe = self.recipe
        config = SyntheticConfig(
            out=self.set,
            contents=recipe.contents,
            cuts_per_content=recipe.cuts_per_content,
            views=ViewsConfig(frames=recipe.network.frames, size=recipe.network.view_size),
            jobs=os.cpu_count() or 1,
        )
        found = fetch(pool, media)
        for sentence in found.missing:
            print(f"left out, so that the weights will be others: {sentence}", file=sys.stderr)
        with item_bar("synthetic set") as show:
            make(config, found, show)
        write_whole(made, Path.touch)

    def vae(self) -> Path:
        """The autoencoder's weights: our encoder and its decoder, the latents normalised."""
        path, recipe = self.work / "vae.safetensors", self.recipe
        if path.exists():
            return path
        torch.manual_seed(recipe.vae.seed)
        trained = autoencoder(recipe.network.vae)
        start_as_identity(trained)
        batches = self._pictures(recipe.vae_batch, recipe.vae.seed, are_labelled=True)
        describes = {
            "network": recipe.network.as_dict(),
            "data": {"batch": recipe.vae_batch, "patch": recipe.vae_patch, "pictures": self._pictures_made_of()},
        }
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
        return self._denoising("unet", self.work, self.vae, self.recipe.unet)

    def controller(self) -> Path:
        """A network whose extractor is trained: the Controller on the noise that the sampler leaves."""
        return self._denoising("controller", self._own, self.unet, self.recipe.controller)

    def _denoising(self, trains: Trained, folder: Path, before: Callable[[], Path], config: FitConfig) -> Path:
        path, recipe = folder / f"{trains}.safetensors", self.recipe
        if path.exists():
            return path
        if trains == "unet":
            network, weights = random_network(recipe.network, config.seed), load_file(before())
            network.extractor.null_prompt.copy_(network.extractor.null_prompt.half())
            network.extractor.vae.load_state_dict({name: weights[name] for name in network.extractor.vae.state_dict()})
        else:
            shared, _ = load_weights(before())
            # Of this one's sampler, which the UNet was trained without.
            network = with_new_head(shared, recipe.network, config.seed)
            network.extractor.controller.copy_from_unet(network.extractor.unet)
        visits: Visited = "sampler" if trains == "controller" else "schedule"
        objective = DenoisingObjective(network.extractor, trains=trains, draws=recipe.draws, visits=visits)
        batches = self._pictures(recipe.denoising_batch, config.seed)
        describes = {
            "network": network.config.as_dict(),
            "start": {"weights": weights_sha256(network)},
            "data": {
                "batch": recipe.denoising_batch,
                "draws": recipe.draws,
                "visits": visits,
                "pictures": self._pictures_made_of(),
            },
        }
        make_folder(folder)
        self._fit(f"{folder.relative_to(self.work)}/{trains}", objective, batches, config, describes)
        write_whole(path, lambda part: save_weights(network.cpu(), part, is_trained=False, dtype=torch.float16))
        return path

    def tcab(self) -> ReadTcab:
        """A TCAB that has learned the quality of clips, of all the training contents' ladders."""
        path, config, stages = self.work / "tcab.safetensors", self.recipe.network, self.recipe.tcab
        if path.exists():
            learned = ReadTcab(config, frames=config.frames)
            try:
                learned.load_state_dict(load_file(path))
            except RuntimeError as error:
                raise TrainingError(f"{path} is of another recipe; delete it and head.safetensors to go on") from error
            return learned
        videos = self.videos("train")
        torch.manual_seed(stages[0].fit.seed)
        learned = ReadTcab(config, frames=stages[0].frames, across=stages[0].across)
        for number, stage in enumerate(stages):
            size, steps = config.view_size // stage.across, stage.fit.steps
            pairs = VersionPairs(videos, batch=stage.batch, frames=stage.frames, size=size, seed=stage.fit.seed)
            if number == 0:
                measured = torch.cat([pairs[steps + index]["frames"] for index in range(_MEASURED_BATCHES)])
                start_as_frequencies(learned.tcab.patch_embed.proj, measured.flatten(0, 1))
            else:
                learned = grow(learned.cpu(), config, frames=stage.frames, across=stage.across)
            describes = {
                "network": config.as_dict(),
                "data": {"videos": videos_digest(videos), "views": self._views_digest(videos)},
                # As checkpoints call them.
                "lessons": {done.name: asdict(done) for done in stages[: number + 1]},
            }
            self._fit(stage.name, ReadTcabObjective(learned, config), pairs, stage.fit, describes)
        _save_halved(learned.cpu().state_dict(), path)
        return self.tcab()

    def diffusion_head(self) -> Path:
        """A network whose head has no TCAB and is half as wide, trained: what the diffusion's features tell alone."""
        path, recipe = self._own / "diffusion-head.safetensors", self.recipe
        if not path.exists():
            network, train, cache = self._learned_from()
            config = diffusion_alone(network.config)
            network = self.train_head("diffusion-head", network, config, train, cache, recipe.diffusion_head_epochs)
            write_whole(path, lambda part: save_weights(network, part, is_trained=True, dtype=torch.float16))
        return path

    def head(self) -> Path:
        """The whole network, trained."""
        path, recipe = self._own / "head.safetensors", self.recipe
        if not path.exists():
            network, train, cache = self._learned_from()
            alone, _ = load_weights(self.diffusion_head())
            network = self.train_head("head", network, network.config, train, cache, recipe.head_epochs, alone)
            write_whole(path, lambda part: save_weights(network, part, is_trained=True, dtype=torch.float16))
        return path

    def _learned_from(self) -> tuple[DiffVQA, list[LabelledVideo], FeatureCache]:
        """The adapted network, the videos that its heads learn from, and their features."""
        train = self.videos("train", self.recipe.train_ladders_per_scene)
        network, cache = self.adapted(train, range(self.recipe.head_crops))
        return network, train, cache

    def report(self) -> list[LadderAgreement]:
        """The agreement of the weights' scores with the labels and ladders of contents that no stage has seen."""
        held_out = self.videos("validation", self.recipe.held_out_ladders_per_scene)
        _, cache = self.adapted(held_out, [self.recipe.scored_crop])
        network, _ = load_weights(self.head())
        return agreement_of(held_out, predict_videos(network, held_out, cache, self.recipe.scored_crop), self.set)

    def videos(self, split: str, ladders_per_scene: int | None = None) -> list[LabelledVideo]:
        """The kept views of a split, or of some of each scene's ladders, since features take hours."""
        videos = with_views(videos_from_set(self.set, split))
        return videos if ladders_per_scene is None else some_ladders(videos, ladders_per_scene)

    def adapted(self, videos: Sequence[LabelledVideo], crops: Iterable[int]) -> tuple[DiffVQA, FeatureCache]:
        """The network whose extractor is trained, and its features of the videos; by the engines where given."""
        network, _ = load_weights(self.controller())
        extract: Extractor
        if self._engines is None:
            extract = TorchExtractor(network, Accelerator())
        else:
            extract = EngineExtractor(self._engines, network, "onnx")
        return network, self.features(network, extract, videos, crops)

    def features(
        self, network: DiffVQA, extract: Extractor, videos: Sequence[LabelledVideo], crops: Iterable[int]
    ) -> FeatureCache:
        """The features of the videos' kept crops of these numbers, in a cache that all stages share."""
        max_bytes = self.recipe.cache_bytes
        cache = FeatureCache(
            self.work / "features",
            network,
            precision=extract.precision,
            runtime=extract.runtime,
            max_bytes=max_bytes,
        )
        entries = [CropOfVideo(video.path, crop) for crop in crops for video in videos]
        with item_bar("features") as show:
            fill_cache(
                cache, entries, extract, Accelerator(), views=kept_views, workers=self._workers, on_progress=show
            )
        return cache

    def train_head(
        self,
        name: str,
        extractor: DiffVQA,
        config: DiffVQAConfig,
        videos: Sequence[LabelledVideo],
        cache: FeatureCache,
        epochs: int,
        alone: DiffVQA | None = None,
    ) -> DiffVQA:
        """The extractor with a new head of `config`, trained as the run `name`.

        Args:
            alone: of `diffusion_alone`; the head then begins with what it and the TCAB tell, half from each.
        """
        recipe = self.recipe
        batches = OpinionBatches(
            videos,
            cache,
            batch=recipe.head_batch,
            crops=recipe.head_crops,
            processes=1,
            seed=recipe.head.seed,
            frames=config.frames,
        )
        fitted = replace(recipe.head, steps=epochs * batches.steps_per_epoch)
        network = with_new_head(extractor, config, recipe.head.seed)
        start_alike_everywhere(network)
        if alone is not None:
            start_from_parts(network, self.tcab(), alone)
        describes = {
            "network": network.config.as_dict(),
            "start": {"weights": weights_sha256(network)},
            "data": {"videos": videos_digest(videos), "batch": recipe.head_batch},
            "features": {
                "entries": cache.digest(
                    CropOfVideo(video.path, crop) for crop in range(recipe.head_crops) for video in videos
                )
            },
        }
        self._fit(
            f"{self._own.relative_to(self.work)}/{name}",
            HeadObjective(network, evenness=recipe.evenness),
            batches,
            fitted,
            describes,
        )
        return network.cpu()

    def _pictures(self, batch: int, seed: int, *, are_labelled: bool = False) -> KeptPictures:
        path, labels = self.work / "pictures.npy", self.work / "pictures-labels.npy"
        text = json.dumps(self._pictures_made_of())
        beside = path.with_suffix(".json")
        if not (beside.exists() and beside.read_text(encoding="utf-8") == text):
            beside.unlink(missing_ok=True)
            with item_bar("pictures") as show:
                drawn = draw_pictures(self.videos("train"), self.recipe.pictures, self.recipe.pictures_seed, show)
            write_whole(path, partial(_save_array, array=drawn[0]))
            write_whole(labels, partial(_save_array, array=drawn[1]))
            write_whole(beside, lambda part: part.write_text(text, encoding="utf-8"))
        return KeptPictures(path, labels=labels if are_labelled else None, batch=batch, seed=seed)

    def _pictures_made_of(self) -> dict[str, Any]:
        recipe = self.recipe
        videos = self.videos("train")
        return {
            "count": recipe.pictures,
            "seed": recipe.pictures_seed,
            "videos": videos_digest(videos),
            "views": self._views_digest(videos),
            "decoding": DECODING_VERSION,
        }

    def _views_digest(self, videos: Sequence[LabelledVideo]) -> str:
        """SHA-256 of the clips that the views are of, by the manifest."""
        hashes = {clip.views: clip.sha256 for clip in read_manifest(self.set)}
        text = "".join(f"{hashes[video.path.relative_to(self.set).as_posix()]}\n" for video in videos)
        return hashlib.sha256(text.encode()).hexdigest()

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


def _save_array(path: Path, array: NDArray[Any]) -> None:
    with open(path, "wb") as file:
        np.save(file, array)


def _save_halved(tensors: Mapping[str, Tensor], path: Path) -> None:
    halved = {name: tensor.half() for name, tensor in tensors.items()}
    write_whole(path, lambda part: write_safetensors(halved, part))
