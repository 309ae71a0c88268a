"""Engine folders of one benchmark run, each built once by the command that users run, in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import build_engines

from diffvqa_rt.metrics.registry import DEFAULT


class Builds:
    """Builds each metric's `tiny` into folders under `root`, for this run alone: older engines would lie.

    Args:
        root: where the folders go.
        together: the backends that one build makes, in one folder, from one reference. Any other has its own build.
    """

    def __init__(self, root: Path, together: Iterable[str]) -> None:
        self._root, self._together = root, tuple(together)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, backend: str, metric: str = DEFAULT) -> None:
        """Begins to build beside what else is to be prepared. `folder` must return before anything is timed."""
        backends = self._built_with(backend)
        what = f"{metric} {backends}"
        if what in self._processes:
            return
        command = [sys.executable, build_engines.__file__, "--metric", metric, "--backend", backends]
        command += ["--out", str(self._path(what))]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        with self._log(what).open("wb") as log:
            self._processes[what] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def folder(self, backend: str, metric: str = DEFAULT) -> Path:
        """The folder with the metric's engines of this backend, among others. Fails with what the build said."""
        self.start(backend, metric)
        what = f"{metric} {self._built_with(backend)}"
        status = self._processes[what].wait()
        assert status == 0, f"the build of {what} ended with {status}:\n{self._log(what).read_text()}"
        return self._path(what)

    def close(self) -> None:
        """Ends the builds that nobody waited for."""
        for process in self._processes.values():
            process.terminate()
            process.wait()

    def _built_with(self, backend: str) -> str:
        return ",".join(self._together) if backend in self._together else backend

    def _path(self, what: str) -> Path:
        return self._root / what.replace(" ", "-").replace(",", "-")

    def _log(self, what: str) -> Path:
        return self._path(what).with_suffix(".log")
