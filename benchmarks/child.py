"""A command in a process of its own: how long it takes and the most memory that it holds."""

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finished:
    """`peak_memory_mib`: the most that the process had resident, or the largest of those that it started."""

    seconds: float
    peak_memory_mib: int
    output: str


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> Finished:
    """The command, run to its end, with nothing but these environment variables. Linux counts memory in KiB.

    Raises RuntimeError with the end of what it said on stderr unless it ends with status 0.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=dict(environment))
        # Not `wait`, which does not tell what the process used.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        for stream in (out, err):
            stream.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command[0]} ended with status {process.returncode}: {err.read()[-2000:]}")
        return Finished(seconds, usage.ru_maxrss // 1024, out.read())
