"""The shape of a network, as frozen data."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from diffvqa_rt.checks import require

SIZE = 64
TURNS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyLumaConfig:
    """A whole network, which looks at so many `frames`."""

    name: str
    frames: int
    score_range: tuple[float, float] = (-3.0, 3.0)

    def __post_init__(self) -> None:
        require(self.frames >= 2, "frames", self.frames, "at least 2")

    def describe(self) -> str:
        """A few words for a person: what the network takes, and what it does to it."""
        return f"{self.frames} pictures of {SIZE}×{SIZE} pixels, {TURNS} turns"

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ToyLumaConfig":
        """The inverse of `as_dict`, also by way of JSON. Raises ValueError for anything else."""
        try:
            return cls(**{**values, "score_range": tuple(values["score_range"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a toy network's description: {error}") from error


FIVE = ToyLumaConfig(name="five", frames=5)
"""The only one there is."""
