"""A command in a process of its own: how long it takes and the most memory that it holds.

Between us and the command stands this file as a script, a few MiB large: Linux counts into a process's peak what the
one that started it held at that moment, and one that has imported torch holds more than what is to be measured.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Finished:
    """`peak_memory_mib`: the most that the process had resident, or the largest of those that it started."""

    seconds: float
    peak_memory_mib: int
    output: str


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> Finished:
    """The command, run to its end, with nothing but these environment variables.

    Raises RuntimeError with the end of what it said on stderr unless it ends with status 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        usage = Path(folder, "usage.json")
        launcher = [sys.executable, "-I", "-S", __file__, str(usage), *command]
        done = subprocess.run(launcher, env=dict(environment), capture_output=True, text=True)
        if done.returncode:
            said = done.stderr[-2000:]
            raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}: {said}")
        return Finished(**json.loads(usage.read_text()), output=done.stdout)


def _launch(usage: str, *command: str) -> int:
    """The command's status, after its seconds and MiB are written to the file `usage`."""
    start = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ)
    _, status, used = os.wait4(pid, 0)
    seconds = time.perf_counter() - start
    # Linux counts in KiB.
    Path(usage).write_text(json.dumps({"seconds": seconds, "peak_memory_mib": used.ru_maxrss // 1024}))
    return os.waitstatus_to_exitcode(status) and 1


if __name__ == "__main__":
    sys.exit(_launch(*sys.argv[1:]))
