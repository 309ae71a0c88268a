"""Two files of results side by side: two encodes of the same sources, or two engines on the same files."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.errors import ReportError
from diffvqa_rt.report.reading import Entry, ResultsFile

MIN_PAIRS = 10
"""The bootstrap's percentiles of fewer pairs are too narrow to be called an interval, as in `diffvqa evaluate`."""

RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A source's results in both files, by their numbers in `first.entries + second.entries`."""

    name: str
    first: int
    second: int
    difference: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The differences of a pair, second minus first.

    Attributes:
        pairs: in the first file's order.
        unpaired: results of either file that the other has none for.
        mean: of the differences.
        interval: its 95 % interval, paired bootstrap; None of fewer than `MIN_PAIRS` pairs.
        higher, lower, equal: pairs whose second score is so.
    """

    pairs: tuple[Pair, ...]
    unpaired: int
    mean: float
    interval: tuple[float, float] | None
    higher: int
    lower: int
    equal: int


def compare(first: ResultsFile, second: ResultsFile) -> Comparison:
    """Pairs two files' results: by id, or by the path below the file's common folder, without suffix; and by prompt.

    Raises:
        ReportError: results of a file cannot be told apart, none has a partner, or a pair's scores do not compare.
    """
    firsts, seconds = _by_key(first), _by_key(second)
    shared = [key for key in firsts if key in seconds]
    if not shared:
        raise ReportError(
            f"no result of {first.path} has a partner in {second.path}: partners have the same id, or the same path "
            "below the folder that all videos of a file share, whatever the suffix, and the same prompt"
        )
    pairs = []
    for key in shared:
        a, b = first.entries[firsts[key]].score, second.entries[seconds[key]].score
        scales = [(one.metric, one.score_range, one.prompt is None) for one in (a, b)]
        if scales[0] != scales[1]:
            raise ReportError(
                f"the scores of {a.source} and {b.source} are not on one scale ({a.metric}, {a.model} and {b.metric}, "
                f"{b.model}); compare results of one metric"
            )
        numbers = firsts[key], len(first.entries) + seconds[key]
        pairs.append(Pair(name=key[0], first=numbers[0], second=numbers[1], difference=b.score - a.score))
    differences = np.array([pair.difference for pair in pairs])
    return Comparison(
        pairs=tuple(pairs),
        unpaired=len(firsts) + len(seconds) - 2 * len(pairs),
        mean=float(differences.mean()),
        interval=mean_interval(differences) if len(pairs) >= MIN_PAIRS else None,
        higher=int((differences > 0).sum()),
        lower=int((differences < 0).sum()),
        equal=int((differences == 0).sum()),
    )


def mean_interval(differences: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of differences [n]: percentiles of resampled pairs (Efron and Tibshirani 1993)."""
    generator = np.random.default_rng(seed)
    count = len(differences)
    means = [differences[generator.integers(count, size=count)].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _by_key(results: ResultsFile) -> dict[tuple[str, str | None], int]:
    """The entries' numbers by the source's name and the prompt. Raises ReportError where two have the same."""
    names = names_below([entry.score.source for entry in results.entries])
    keys = [_key(entry, name) for entry, name in zip(results.entries, names, strict=True)]
    for key, uses in Counter(keys).items():
        if uses > 1:
            raise ReportError(
                f"{results.path} has {uses} results of {key[0]!r} with the same prompt; leave one of them, or give ids"
            )
    return {key: number for number, key in enumerate(keys)}


def _key(entry: Entry, name: str) -> tuple[str, str | None]:
    # A catalogue without ids calls a video by its path.
    has_id = entry.id is not None and entry.id != entry.score.source
    return str(entry.id) if has_id else str(PurePath(name).with_suffix("")), entry.score.prompt


def names_below(sources: Sequence[str]) -> list[str]:
    """The paths of sources below the folder that they share."""
    folders = {os.path.dirname(source) for source in sources}
    try:
        shared = os.path.commonpath(folders) if folders else ""
    except ValueError:  # absolute and relative ones
        shared = ""
    return [os.path.relpath(source, shared) if shared else source for source in sources]
