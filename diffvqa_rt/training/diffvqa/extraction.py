"""The frozen extractor over many videos, into a feature cache: by torch, or by the engines that will be deployed."""

import dataclasses
from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from diffvqa_rt.chain import play
from diffvqa_rt.decoding import shared_decoder
from diffvqa_rt.engines import BackendName, Manifest, open_engines
from diffvqa_rt.engines.manifest import engines_sha256
from diffvqa_rt.errors import TrainingError
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.metrics.diffvqa.engines import FEATURES
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.models.diffvqa.network import DiffVQA
from diffvqa_rt.models.weights import weights_sha256
from diffvqa_rt.sampler import SamplerConfig
from diffvqa_rt.specs import Engine
from diffvqa_rt.training.diffvqa.features import FeatureCache
from diffvqa_rt.training.entry_cache import CropOfVideo
from diffvqa_rt.training.filling import fill_entries
from diffvqa_rt.training.loop import OnProgress

_FULL_PRECISION = "no"


class Extractor(Protocol):
    """From a video's views, uint8 [2N, 3, S, S], to `z0_hat` and `features_0` … `features_3`, [2N, …] float.

    Attributes:
        precision: what it computes in, `no` for float32.
        runtime: what else decides the bits of what it gives; a cache keeps those of different ones apart.
        is_for_one_process: whether one process has to extract for all.
    """

    precision: str
    runtime: str
    is_for_one_process: bool

    def __call__(self, views: Tensor) -> dict[str, Tensor]: ...


class TorchExtractor:
    """The network itself, on the accelerator's device and in its precision."""

    is_for_one_process = False

    def __init__(self, network: DiffVQA, accelerator: Accelerator) -> None:
        mixed = str(accelerator.mixed_precision)
        # By autocast, which leaves some operations in float32: engines in half precision have other bits.
        self.precision = mixed if mixed == _FULL_PRECISION else f"autocast {mixed}"
        self.runtime = f"torch on {accelerator.device.type}"
        self._network = network
        self._accelerator = accelerator
        network.extractor.to(accelerator.device)

    def __call__(self, views: Tensor) -> dict[str, Tensor]:
        with self._accelerator.autocast():
            frames = views[None].to(self._accelerator.device).float() / 127.5 - 1
            z0_hat, features = self._network.extract(frames)
        return {name: x[0].cpu() for name, x in zip(("z0_hat", *FEATURES), (z0_hat, *features), strict=True)}


class EngineExtractor:
    """An engine folder of the same weights, which is verified as for scoring once the first video comes.

    Raises:
        EngineMismatchError: the folder has no such engines.
        TrainingError: it was built from other weights, or samples in another way.
    """

    is_for_one_process = True

    def __init__(self, folder: Path, network: DiffVQA, backend: BackendName, threads: int | None = None) -> None:
        manifest = Manifest.read(folder)
        record = manifest.backend(backend, folder)
        if manifest.weights.sha256 != weights_sha256(network):
            raise TrainingError(f"{folder} was built from other weights than the extractor's; build it from the same")
        built, own = cast(DiffVQAConfig, manifest.config).sampler, network.config.sampler  # one network's weights
        if built != own:
            raise TrainingError(
                f"{folder} takes {_words(built)}, and the extractor {_words(own)}; build it from the same weights with "
                f"--steps {own.steps}"
            )
        self.precision = _FULL_PRECISION if record.precision == "fp32" else record.precision
        self.runtime = f"{backend} engines {engines_sha256(record.files)}"
        # Without the head, which is what learns.
        self._chain = manifest.metric.chain(manifest.config)[:-1]
        self._folder, self._backend, self._threads = folder, backend, threads

    @cached_property
    def _engines(self) -> Mapping[str, Engine]:
        """Raises EngineMismatchError, DeviceUnavailableError where they cannot run here."""
        # Not before: where all features are there, neither the runtime nor its device is needed.
        return open_engines(self._folder, self._backend, self._threads, names=[item.engine for item in self._chain])[1]

    def __call__(self, views: Tensor) -> dict[str, Tensor]:
        features = play(self._chain, self._engines, {"frames": views[None].numpy()})
        return {name: torch.from_numpy(values[0]) for name, values in features.items()}


def _words(sampler: SamplerConfig) -> str:
    return f"{sampler.steps} steps of {sampler.schedule} with the variance {sampler.variance}"


def fill_cache(
    cache: FeatureCache,
    entries: Iterable[CropOfVideo],
    extract: Extractor,
    accelerator: Accelerator,
    *,
    workers: int = 0,
    on_progress: OnProgress | None = None,
) -> None:
    """Extracts the entries that are not there; errors and processes are those of `fill_entries`."""

    def features_and_views(views: Tensor) -> dict[str, Tensor]:
        return extract(views) | {"frames": views}

    fill_entries(
        cache,
        entries,
        partial(_views, cache.config),
        features_and_views,
        accelerator,
        is_for_one_process=extract.is_for_one_process,
        workers=workers,
        on_progress=on_progress,
    )


def _views(config: DiffVQAConfig, entry: CropOfVideo) -> Tensor:
    """The views of an entry, uint8 [2N, 3, S, S].

    The crop is at a random place, however the network's crops are placed when it scores: all seeds have one texture.
    """
    config = dataclasses.replace(config, crop_placement="random")
    prepared = shared_decoder().prepare(entry.path, METRIC, config, Request(seed=entry.crop, crops=1))
    return torch.from_numpy(prepared.arrays["frames"][0])
