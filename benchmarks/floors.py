"""Floors under ratios: what `make test` holds the speed to. `floors.toml` has them, each with its reason."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from turns import Run, seconds_in_turns, speedup

FLOORS = Path(__file__).with_name("floors.toml")
ATTEMPTS = 3


class RegressionError(Exception):
    """A ratio stayed under its floor in every attempt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Floor:
    """The least speed of `provider`, in times that of `baseline`, and why that much."""

    name: str
    provider: str
    baseline: str
    floor: float
    why: str

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError(f"{self.name}: floor is {self.floor}; expected a positive ratio")
        if not self.why:
            raise ValueError(f"{self.name} has no why; expected a line that says where its floor comes from")

    def check(self, runs: Mapping[str, Run], *, rounds: int, attempts: int = ATTEMPTS) -> float:
        """The ratio of the first attempt that reaches the floor, the median of its rounds' own.

        Args:
            runs: a call for the provider and one for the baseline, by name.
            rounds: of both in turns, in each attempt.
            attempts: a busy machine may spoil some; what is slow spoils all.

        Raises:
            RegressionError: no attempt reached it.
        """
        ratios = []
        for _ in range(attempts):
            seconds = seconds_in_turns({name: runs[name] for name in (self.baseline, self.provider)}, rounds)
            ratios.append(speedup(seconds[self.provider], seconds[self.baseline]))
            if ratios[-1] >= self.floor:
                return ratios[-1]
        measured = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        raise RegressionError(
            f"{self.name}: {self.provider} is {measured} times as fast as {self.baseline} in {attempts} attempts, and "
            f"its floor in {FLOORS.parent.name}/{FLOORS.name} is {self.floor} ({self.why})"
        )


def read_floors(path: Path = FLOORS) -> dict[str, Floor]:
    """The floors by name. Raises ValueError for one that lacks a field, has an unknown one, or is not positive."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    try:
        return {name: Floor(name=name, **fields) for name, fields in tables.items()}
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error
