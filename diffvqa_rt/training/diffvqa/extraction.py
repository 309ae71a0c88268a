"""The frozen extractor over many videos, into a feature cache: by torch, or by the engines that will be deployed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset

from diffvqa_rt.chain import play
from diffvqa_rt.decoding import shared_decoder
from diffvqa_rt.engines import BackendName, Manifest, open_engines
from diffvqa_rt.engines.manifest import engines_sha256
from diffvqa_rt.errors import TrainingError, VideoDecodeError
from diffvqa_rt.metric import Request
from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.metrics.diffvqa.engines import FEATURES
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.models.diffvqa.network import DiffVQA
from diffvqa_rt.models.weights import weights_sha256
from diffvqa_rt.specs import Engine
from diffvqa_rt.training.diffvqa.features import CropOfVideo, FeatureCache
from diffvqa_rt.training.loop import OnProgress, read_ahead

_NAMED_AT_MOST = 5
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
        TrainingError: it was built from other weights.
    """

    is_for_one_process = True

    def __init__(self, folder: Path, network: DiffVQA, backend: BackendName, threads: int | None = None) -> None:
        manifest = Manifest.read(folder)
        record = manifest.backend(backend, folder)
        if manifest.weights.sha256 != weights_sha256(network):
            raise TrainingError(f"{folder} was built from other weights than the extractor's; build it from the same")
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


def fill_cache(
    cache: FeatureCache,
    entries: Iterable[CropOfVideo],
    extract: Extractor,
    accelerator: Accelerator,
    *,
    workers: int = 0,
    on_progress: OnProgress | None = None,
) -> None:
    """Makes the entries that are not there, each process its share, or the main one all.

    Raises:
        TrainingError: they do not fit, or videos cannot be decoded, which it names once all the others are made.
    """
    entries = list(entries)
    if accelerator.is_main_process:
        cache.make_room(entries)
    accelerator.wait_for_everyone()
    missing = cache.missing(entries)
    # Barrier: every process must list the missing entries before any of them writes.
    accelerator.wait_for_everyone()
    share = missing[accelerator.process_index :: accelerator.num_processes]
    if extract.is_for_one_process:
        share = missing if accelerator.is_main_process else []
    failed: dict[Path, str] = {}
    for done, (entry, views) in enumerate(_decoded(share, cache, workers), start=1):
        if isinstance(views, str):
            failed[entry.path] = views
        else:
            cache.write(entry, extract(views) | {"frames": views})
        if on_progress and accelerator.is_main_process:
            on_progress(done, len(share))
    accelerator.wait_for_everyone()
    if failed:
        shown = "; ".join(list(failed.values())[:_NAMED_AT_MOST])
        others = f"; and {len(failed) - _NAMED_AT_MOST} others" if len(failed) > _NAMED_AT_MOST else ""
        count = "1 video" if len(failed) == 1 else f"{len(failed)} videos"
        raise TrainingError(
            f"{count} could not be decoded; remove them and run again (features of the others are cached): "
            f"{shown}{others}"
        )


class _Views(Dataset[Tensor | str]):
    """The views of each entry, uint8 [2N, 3, S, S], or why there are none."""

    def __init__(self, entries: Sequence[CropOfVideo], config: DiffVQAConfig) -> None:
        self._entries, self._config = entries, config

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Tensor | str:
        entry = self._entries[index]
        try:
            prepared = shared_decoder().prepare(entry.path, METRIC, self._config, Request(seed=entry.crop))
        except VideoDecodeError as error:
            return str(error)
        return torch.from_numpy(prepared.arrays["frames"][0])


def _decoded(
    entries: Sequence[CropOfVideo], cache: FeatureCache, workers: int
) -> Iterator[tuple[CropOfVideo, Tensor | str]]:
    views = _Views(entries, cache.config)
    yield from zip(entries, read_ahead(views, range(len(entries)), workers), strict=True)
