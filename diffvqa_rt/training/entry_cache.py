"""Results of a frozen network on disk, so that no epoch but the first runs it.

An entry is one video or picture at one crop position: a safetensors file named by the SHA-256 of all that decides its
content (the file's bytes, how they are decoded, the crop, and all about the network that makes it), in one of 256
folders.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffvqa_rt.errors import TrainingError
from diffvqa_rt.files import sha256_of, write_whole
from diffvqa_rt.models.weights import write_safetensors

# Of a safetensors file's header, and of what the disk rounds up to.
_ENTRY_OVERHEAD_BYTES = 8192


@dataclass(frozen=True, slots=True)
class CropOfVideo:
    """The video and crop that an entry is of: `crop` is the seed of the distortion view's place."""

    path: Path
    crop: int = 0


class EntryCache:
    """Entries of one maker, within a folder that others' may share.

    Args:
        what: a plural that names the entries in errors.
        maker: all that decides what an entry of a file and a crop holds, as JSON.
        entry_bytes: of an entry's tensors.
        max_bytes: of the whole folder. Entries that this run does not need go, the longest unused first, to make room.
    """

    def __init__(self, folder: Path, *, what: str, maker: Mapping[str, Any], entry_bytes: int, max_bytes: int) -> None:
        self._folder = folder
        self.what = what
        self._max_bytes = max_bytes
        self.entry_bytes = entry_bytes + _ENTRY_OVERHEAD_BYTES
        self._maker = hashlib.sha256(json.dumps(maker, sort_keys=True).encode()).hexdigest()
        self._digests: dict[Path, str] = {}

    def path(self, entry: CropOfVideo) -> Path:
        key = hashlib.sha256(f"{self._maker} {self._digest(entry.path)} {entry.crop}".encode()).hexdigest()
        return self._folder / key[:2] / f"{key[2:]}.safetensors"

    def digest(self, entries: Iterable[CropOfVideo]) -> str:
        """SHA-256 of which entries these are, in their order; a run goes on only where it is the same."""
        return hashlib.sha256("\n".join(self.path(entry).name for entry in entries).encode()).hexdigest()

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            try:
                self._digests[path] = sha256_of(path)
            except OSError as error:
                raise TrainingError(f"{path} cannot be read ({error.strerror})") from error
        return self._digests[path]

    def read(self, entry: CropOfVideo) -> dict[str, Tensor]:
        """The tensors of an entry; floating point as float32.

        Raises:
            TrainingError: it is not there any more, or damaged.
        """
        path = self.path(entry)
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            with contextlib.suppress(OSError):
                path.unlink()
            raise TrainingError(
                f"{path} cannot be read. Run the command again: the file is deleted and rebuilt"
            ) from error
        # Another user's entry can be read, and not be marked as used.
        with contextlib.suppress(OSError):
            os.utime(path)
        return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}

    def write(self, entry: CropOfVideo, tensors: dict[str, Tensor]) -> None:
        """Keeps an entry; floating point in float16. Raises TrainingError where one has no such value."""
        kept = {name: x.half() if x.is_floating_point() else x for name, x in tensors.items()}
        if not all(bool(x.isfinite().all()) for x in kept.values() if x.is_floating_point()):
            raise TrainingError(f"{entry.path}: its {self.what} are not finite; check the network's weights")
        write_whole(self.path(entry), lambda part: write_safetensors(kept, part))

    def bytes_of(self, entries: Iterable[CropOfVideo]) -> int:
        """The size of all of them together."""
        return len({self.path(entry) for entry in entries}) * self.entry_bytes

    def missing(self, entries: Iterable[CropOfVideo]) -> list[CropOfVideo]:
        """The entries that are not there, each content once, in the order given."""
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
                f"the {self.what} of {len(wanted)} files and crops take {needed / 1e9:.1f} GB, over the cache's "
                f"{self._max_bytes / 1e9:.1f}; raise --cache-gigabytes, lower --crops, or train on fewer"
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
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise TrainingError(
                    f"{path} cannot be removed to make room ({error.strerror}); choose another --cache"
                ) from error
