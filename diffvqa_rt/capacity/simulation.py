"""A queue of videos through the served models, event by event.

Each model has so many instances and a line in front of them, first come, first served. The instances at work share what
they run on (cores, a GPU) evenly: where they ask for more than there is, all slow down alike, as threads do under a
fair scheduler and kernels of several processes on one GPU. That keeps the work that a video needs exact, and it is why
a busy decoder costs the engines on the same cores time.
"""

import heapq
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedStage:
    """A served model.

    Attributes:
        name: of the model.
        resource: what its instances run on.
        demand: how much of that one instance takes while it works alone.
        instances: videos that it works on at a time; `math.inf` for no limit.
    """

    name: str
    resource: str
    demand: float
    instances: float


@dataclass(frozen=True, slots=True)
class Passage:
    """When each video arrived and left, in seconds [videos], and how much of each resource was used, in its seconds."""

    arrived: NDArray[np.float64]
    finished: NDArray[np.float64]
    used: Mapping[str, float]

    @property
    def latencies(self) -> NDArray[np.float64]:
        return self.finished - self.arrived


class _Resource:
    """Shared evenly: all jobs on it advance at the same `rate`, so one clock of the work done orders their ends."""

    def __init__(self, capacity: float) -> None:
        self._capacity = capacity
        self._demand = 0.0
        self.rate = 1.0
        self.clock = 0.0
        self.used = 0.0
        self.jobs: list[tuple[float, int, int]] = []  # the clock at the end, the video, the stage

    def claim(self, demand: float) -> None:
        """More demand, or with a negative number less."""
        self._demand += demand
        self.rate = min(1.0, self._capacity / self._demand) if self._demand > 0 else 1.0

    def advance(self, seconds: float) -> None:
        self.clock += seconds * self.rate
        self.used += seconds * min(self._demand, self._capacity)


def simulate(
    stages: Sequence[ServedStage],
    capacities: Mapping[str, float],
    seconds: NDArray[np.float64],
    arrivals: Sequence[float],
) -> Passage:
    """The videos' way through the stages, in order.

    Args:
        stages: in the order in which a video passes them.
        capacities: how much there is of each resource.
        seconds: [videos, stages], of a video that is alone.
        arrivals: rising; of all videos, or of the first few: then each that leaves brings the next one in, as clients
            do that wait for an answer before they ask again.
    """
    resources = {name: _Resource(capacity) for name, capacity in capacities.items()}
    runs_on = [resources[stage.resource] for stage in stages]
    lines: list[deque[int]] = [deque() for _ in stages]
    idle = [stage.instances for stage in stages]
    needs, arrived, finished = seconds.tolist(), list(arrivals), [0.0] * len(seconds)
    now, entered, left = 0.0, 0, 0

    def start(video: int, stage: int) -> None:
        resource = runs_on[stage]
        heapq.heappush(resource.jobs, (resource.clock + needs[video][stage], video, stage))
        resource.claim(stages[stage].demand)

    def enter(video: int, stage: int) -> None:
        if idle[stage] > 0:
            idle[stage] -= 1
            start(video, stage)
        else:
            lines[stage].append(video)

    while left < len(needs):
        pause, ending = (arrived[entered] - now if entered < len(arrived) else math.inf), None
        for resource in resources.values():
            if resource.jobs and (remaining := (resource.jobs[0][0] - resource.clock) / resource.rate) < pause:
                pause, ending = remaining, resource
        pause = max(pause, 0.0)
        now += pause
        for resource in resources.values():
            resource.advance(pause)
        if ending is None:
            enter(entered, 0)
            entered += 1
            continue
        ending.clock, video, stage = heapq.heappop(ending.jobs)
        ending.claim(-stages[stage].demand)
        if lines[stage]:
            start(lines[stage].popleft(), stage)
        else:
            idle[stage] += 1
        if stage + 1 < len(stages):
            enter(video, stage + 1)
            continue
        finished[video] = now
        left += 1
        if len(arrived) < len(needs):
            arrived.append(now)
    used = {name: resource.used for name, resource in resources.items()}
    return Passage(np.array(arrived), np.array(finished), used)
