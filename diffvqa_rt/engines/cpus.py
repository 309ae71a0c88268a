"""The processors that this process may use: by its affinity, and by its control group's share of time."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_cpus() -> int:
    """The number of threads that have a processor each, at least 1; a part of a processor counts as one."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(affinity, quota_cpus())))


def quota_cpus(groups: Path = _GROUPS, membership: Path = _MEMBERSHIP) -> float:
    """The processors that the control groups' quotas, of version 1 or 2, amount to; infinite without one.

    A container runtime and Kubernetes limit processors by quota, which no affinity shows.
    """
    return min(_quotas(groups, membership), default=math.inf)


def _quotas(groups: Path, membership: Path) -> Iterator[float]:
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 has one tree, version 1 one for each set of controllers.
        tree = groups / controllers
        for place in (tree / group.lstrip("/"), *(tree / group.lstrip("/")).parents):
            yield from _quota(place, is_unified=not controllers)
            if place == tree:
                break


def _quota(place: Path, *, is_unified: bool) -> Iterator[float]:
    names = ["cpu.max"] if is_unified else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    try:
        quota, period = " ".join((place / name).read_text() for name in names).split()
    except (OSError, ValueError):  # not there: the root of a tree has none, and a container may not see its path
        return
    if quota not in ("max", "-1") and int(period) > 0:
        yield int(quota) / int(period)
