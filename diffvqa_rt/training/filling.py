"""Filling an `EntryCache`: files are decoded ahead of time, and each process makes its share of the entries."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset

from diffvqa_rt.errors import TrainingError, VideoDecodeError
from diffvqa_rt.training.entry_cache import CropOfVideo, EntryCache
from diffvqa_rt.training.loop import OnProgress, read_ahead

_NAMED_AT_MOST = 5

Views = Callable[[CropOfVideo], Tensor]
"""Decodes what an entry is made of, in a worker; raises VideoDecodeError."""


def fill_entries(
    cache: EntryCache,
    entries: Iterable[CropOfVideo],
    views: Views,
    make: Callable[[Tensor], dict[str, Tensor]],
    accelerator: Accelerator,
    *,
    is_for_one_process: bool = False,
    workers: int = 0,
    on_progress: OnProgress | None = None,
) -> None:
    """Makes the entries that are not there, each process its share, or the main one all.

    Args:
        make: an entry's tensors from its views.

    Raises:
        TrainingError: they do not fit, or files cannot be decoded, which it names once all the others are made.
    """
    entries = list(entries)
    if accelerator.is_main_process:
        cache.make_room(entries)
    accelerator.wait_for_everyone()
    missing = cache.missing(entries)
    # Barrier: every process must list the missing entries before any of them writes.
    accelerator.wait_for_everyone()
    share = missing[accelerator.process_index :: accelerator.num_processes]
    if is_for_one_process:
        share = missing if accelerator.is_main_process else []
    failed: dict[Path, str] = {}
    for done, (entry, decoded) in enumerate(_decoded(share, views, workers), start=1):
        if isinstance(decoded, str):
            failed[entry.path] = decoded
        else:
            cache.write(entry, make(decoded))
        if on_progress and accelerator.is_main_process:
            on_progress(done, len(share))
    accelerator.wait_for_everyone()
    if failed:
        shown = "; ".join(list(failed.values())[:_NAMED_AT_MOST])
        others = f"; and {len(failed) - _NAMED_AT_MOST} others" if len(failed) > _NAMED_AT_MOST else ""
        count = "1 file" if len(failed) == 1 else f"{len(failed)} files"
        raise TrainingError(
            f"{count} could not be decoded; remove them and run again ({cache.what} of the others are cached): "
            f"{shown}{others}"
        )


class _Decoding(Dataset[Tensor | str]):
    """The views of each entry, or why there are none."""

    def __init__(self, entries: Sequence[CropOfVideo], views: Views) -> None:
        self._entries, self._views = entries, views

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return self._views(self._entries[index])
        except VideoDecodeError as error:
            return str(error)


def _decoded(entries: Sequence[CropOfVideo], views: Views, workers: int) -> Iterator[tuple[CropOfVideo, Tensor | str]]:
    decoding = _Decoding(entries, views)
    yield from zip(entries, read_ahead(decoding, range(len(entries)), workers), strict=True)
