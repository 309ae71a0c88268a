"""Equal rows, found by their bytes, so that an engine runs each once: a still is one frame many times over."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Repeats:
    """The items of arrays that have several: rows, or frames of rows.

    Attributes:
        counts: of the items, by axis: (rows,) or (rows, frames).
        firsts: the numbers of those items that are equal to none before them.
        places: of every item, where in `firsts` its equal is.
    """

    counts: tuple[int, ...]
    firsts: list[int]
    places: list[int]

    @classmethod
    def among(cls, arrays: Sequence[NDArray], axes: int) -> "Repeats | None":
        """The items along the first `axes` axes of arrays that have the same ones; None where no two are equal."""
        counts = arrays[0].shape[:axes]
        if int(np.prod(counts)) < 2:
            return None
        numbers: dict[tuple[bytes, ...], int] = {}
        firsts: list[int] = []
        places: list[int] = []
        for number, index in enumerate(np.ndindex(counts)):
            key = tuple(array[index].tobytes() for array in arrays)
            if numbers.setdefault(key, len(firsts)) == len(firsts):
                firsts.append(number)
            places.append(numbers[key])
        return cls(counts, firsts, places) if len(firsts) < len(places) else None

    def once(self, array: NDArray) -> NDArray:
        """The items that differ, as those of a single row where there are two axes."""
        distinct = self._flat(array)[self.firsts]
        return distinct if len(self.counts) == 1 else distinct[None]

    def all_of(self, once: NDArray) -> NDArray:
        """The inverse of `once`: an array with all items again."""
        distinct = once if len(self.counts) == 1 else once[0]
        return distinct[self.places].reshape(*self.counts, *distinct.shape[1:])

    def _flat(self, array: NDArray) -> NDArray:
        return array.reshape(-1, *array.shape[len(self.counts) :])
