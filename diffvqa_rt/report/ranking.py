"""The order of videos by score, among those that one network scored in one way."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.results import VideoScore


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSet:
    """Results that may be ranked together: of the same engines, with prompts or without.

    Attributes:
        label: tells the set from the others of a report.
        members: the results' numbers, best first.
    """

    label: str
    members: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A result's place in its set.

    Attributes:
        rank: 1 is best; equal scores share the better rank.
        percentile: of 100 results of the set, how many have a lower score; those with the same score count half.
        set_label: of the set.
    """

    rank: int
    percentile: float
    set_label: str


def scored_sets(results: Sequence[VideoScore]) -> tuple[ScoredSet, ...]:
    """The sets of results, in the order in which they first occur."""
    members: dict[tuple[str, ...], list[int]] = {}
    for number, one in enumerate(results):
        kind = (one.metric, one.model, one.precision, one.backend, one.engines_sha256)
        members.setdefault(kind, []).append(number)
    plain = {kind: ", ".join(kind[:4]) for kind in members}
    uses = Counter(plain.values())
    return tuple(
        ScoredSet(
            label=plain[kind] if uses[plain[kind]] == 1 else f"{plain[kind]}, engines {kind[4][:8]}",
            members=tuple(sorted(numbers, key=lambda number: -results[number].score)),
        )
        for kind, numbers in members.items()
    )


def places(results: Sequence[VideoScore], sets: Sequence[ScoredSet]) -> list[Place]:
    """Each result's place in its set, in the results' order."""
    found: dict[int, Place] = {}
    for one in sets:
        scores = np.array([results[number].score for number in one.members])
        for number, score in zip(one.members, scores, strict=True):
            found[number] = Place(
                rank=1 + int((scores > score).sum()), percentile=percentile(score, scores), set_label=one.label
            )
    return [found[number] for number in range(len(results))]


def percentile(value: float, values: NDArray[np.float64]) -> float:
    """The share of values [n] that are lower, in hundredths; equal ones count half."""
    return float(100 * ((values < value).mean() + (values == value).mean() / 2))
