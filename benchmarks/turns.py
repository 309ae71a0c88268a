"""Timing in turns: every round runs everything that is compared, so that a machine that slows down slows all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

Run = Callable[[], object]


def seconds_of(run: Run) -> float:
    """The seconds that one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def seconds_in_turns(runs: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run, round by round; one round more goes before them to warm up, and is not counted."""
    by_round = [{name: seconds_of(run) for name, run in runs.items()} for _ in range(rounds + 1)]
    return {name: [seconds[name] for seconds in by_round[1:]] for name in runs}


def speedup(seconds: Sequence[float], baseline: Sequence[float]) -> float:
    """The median of the rounds' own ratios: above 1 where the baseline took longer."""
    return statistics.median(theirs / ours for ours, theirs in zip(seconds, baseline, strict=True))
