"""The frozen extractor's features on disk, so that no epoch but the first runs the diffusion.

An entry is one video at one crop position: a safetensors file named by the SHA-256 of all that decides its content (the
video's bytes, the extractor's weights and description, the crop, the precision), in one of 256 folders.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from diffvqa_rt.config import VIEWS
from diffvqa_rt.errors import TrainingError, VideoDecodeError
from diffvqa_rt.models.checkpoints import weights_sha256
from diffvqa_rt.models.diffvqa import DiffVQA
from diffvqa_rt.training.files import write_whole
from diffvqa_rt.training.loop import read_ahead
from diffvqa_rt.training.pictures import OnProgress
from diffvqa_rt.video import sample_frames
from diffvqa_rt.video.views import cut_views

_HALF_BYTES = 2
# Of a safetensors file's header, and of what the disk rounds up to.
_ENTRY_OVERHEAD_BYTES = 8192
_NAMED_AT_MOST = 5
# Goes up when the same video and extractor are to give other entries: sampling, colour, views, the extractor's code.
_FORMAT = 1
# Of a network's description, what changes nothing before the head.
_NOT_THE_EXTRACTORS = ("name", "head", "score_range")


@dataclass(frozen=True, slots=True)
class CropOfVideo:
    """What an entry holds the features of: `crop` is the seed of the distortion view's place."""

    path: Path
    crop: int = 0


class FeatureCache:
    """Entries of one extractor, within a folder that others' may share.

    Args:
        network: its extractor is what makes the features.
        precision: what the extractor computes in (`FitConfig.mixed_precision`); features are kept in float16 always.
        max_bytes: of the whole folder. Entries that this run does not need go, the longest unused first, to make room.
    """

    def __init__(self, folder: Path, network: DiffVQA, *, precision: str, max_bytes: int) -> None:
        self._folder = folder
        self._config = network.config
        self._max_bytes = max_bytes
        described = {key: value for key, value in network.config.as_dict().items() if key not in _NOT_THE_EXTRACTORS}
        extractor = [str(_FORMAT), weights_sha256(network.extractor), json.dumps(described, sort_keys=True), precision]
        self._extractor = hashlib.sha256("\n".join(extractor).encode()).hexdigest()
        self._digests: dict[Path, str] = {}

    @property
    def entry_bytes(self) -> int:
        """What an entry takes, for this network."""
        config = self._config
        pictures = config.frames * len(VIEWS)
        numbers = sum(int(np.prod(shape)) for shape in (config.latent_shape, *config.feature_shapes))
        return pictures * (numbers * _HALF_BYTES + 3 * config.view_size**2) + _ENTRY_OVERHEAD_BYTES

    def path(self, entry: CropOfVideo) -> Path:
        key = hashlib.sha256(f"{self._extractor} {self._digest(entry.path)} {entry.crop}".encode()).hexdigest()
        return self._folder / key[:2] / f"{key[2:]}.safetensors"

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            try:
                with open(path, "rb") as file:
                    self._digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise TrainingError(f"{path} cannot be read ({error.strerror})") from error
        return self._digests[path]

    def read(self, entry: CropOfVideo) -> dict[str, Tensor]:
        """`z0_hat` and `features_0` … `features_3` as float32, and `frames`, the views, uint8 [2N, 3, S, S].

        Raises:
            TrainingError: it is not there any more, or damaged.
        """
        path = self.path(entry)
        try:
            tensors = load_file(path)
            os.utime(path)
        except (SafetensorError, OSError) as error:
            path.unlink(missing_ok=True)
            raise TrainingError(f"{path} cannot be read; start again, and it is made again") from error
        return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}

    def write(self, entry: CropOfVideo, tensors: dict[str, Tensor]) -> None:
        """Keeps an entry; floating point in float16. Raises TrainingError where a feature has no such value."""
        kept = {name: (x.half() if x.is_floating_point() else x).contiguous() for name, x in tensors.items()}
        if not all(bool(x.isfinite().all()) for x in kept.values() if x.is_floating_point()):
            raise TrainingError(f"{entry.path}: the extractor's features are not finite; check its weights")
        write_whole(self.path(entry), lambda part: save_file(kept, part))

    def bytes_of(self, entries: Iterable[CropOfVideo]) -> int:
        """What all of them take."""
        return len({self.path(entry) for entry in entries}) * self.entry_bytes

    def missing(self, entries: Iterable[CropOfVideo]) -> list[CropOfVideo]:
        """Those that are not there, each content once, in the order given."""
        wanted = {self.path(entry): entry for entry in entries}
        return [entry for path, entry in wanted.items() if not path.exists()]

    def make_room(self, entries: Iterable[CropOfVideo]) -> None:
        """Lets go of other runs' entries, the longest unused first, until these fit.

        Raises:
            TrainingError: all that is asked for does not fit in `max_bytes`.
        """
        wanted = {self.path(entry) for entry in entries}
        needed = len(wanted) * self.entry_bytes
        if needed > self._max_bytes:
            raise TrainingError(
                f"the features of {len(wanted)} videos and crops take {needed / 1e9:.1f} GB, over the cache's "
                f"{self._max_bytes / 1e9:.1f}; raise --cache-gigabytes, or train on less"
            )
        # What a killed run left half-written is there too, under names that nobody asks for.
        there: dict[Path, os.stat_result] = {}
        for path in self._folder.glob("??/*.safetensors*"):
            with contextlib.suppress(FileNotFoundError):
                there[path] = path.stat()
        others = sorted((path for path in there if path not in wanted), key=lambda path: there[path].st_mtime)
        room = self._max_bytes - needed - sum(there[path].st_size for path in others)
        for path in others:
            if room >= 0:
                break
            room += there[path].st_size
            path.unlink(missing_ok=True)


def fill_cache(
    cache: FeatureCache,
    entries: Iterable[CropOfVideo],
    network: DiffVQA,
    accelerator: Accelerator,
    *,
    workers: int = 0,
    on_progress: OnProgress | None = None,
) -> None:
    """Makes the entries that are not there, each process its share.

    Raises:
        TrainingError: they do not fit, or videos cannot be decoded, which it names once all the others are made.
    """
    entries = list(entries)
    if accelerator.is_main_process:
        cache.make_room(entries)
    accelerator.wait_for_everyone()
    missing = cache.missing(entries)
    # Nobody writes before all have listed: each is to take its share of the same list.
    accelerator.wait_for_everyone()
    share = missing[accelerator.process_index :: accelerator.num_processes]
    network.extractor.to(accelerator.device)
    failed: list[str] = []
    for done, (entry, views) in enumerate(_decoded(share, network, workers), start=1):
        if isinstance(views, str):
            failed.append(views)
        else:
            with accelerator.autocast():
                frames = views[None].to(accelerator.device).float() / 127.5 - 1
                z0_hat, features = network.extract(frames)
            named = {"z0_hat": z0_hat, **{f"features_{index}": x for index, x in enumerate(features)}}
            cache.write(entry, {name: x[0].cpu() for name, x in named.items()} | {"frames": views})
        if on_progress and accelerator.is_main_process:
            on_progress(done, len(share))
    accelerator.wait_for_everyone()
    if failed:
        shown = "; ".join(failed[:_NAMED_AT_MOST])
        others = f"; and {len(failed) - _NAMED_AT_MOST} others" if len(failed) > _NAMED_AT_MOST else ""
        raise TrainingError(f"take these out of the data, the features of all others are made: {shown}{others}")


class _Views(Dataset[Tensor | str]):
    """The views of each entry, uint8 [2N, 3, S, S], or why there are none."""

    def __init__(self, entries: Sequence[CropOfVideo], frames: int, size: int) -> None:
        self._entries, self._frames, self._size = entries, frames, size

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Tensor | str:
        entry = self._entries[index]
        try:
            sampled = sample_frames(entry.path, self._frames)
        except VideoDecodeError as error:
            return str(error)
        return torch.from_numpy(cut_views(sampled.frames, self._size, entry.crop)[0])


def _decoded(
    entries: Sequence[CropOfVideo], network: DiffVQA, workers: int
) -> Iterator[tuple[CropOfVideo, Tensor | str]]:
    views = _Views(entries, network.config.frames, network.config.view_size)
    yield from zip(entries, read_ahead(views, range(len(entries)), workers), strict=True)
