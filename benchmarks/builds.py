"""Engine folders of one benchmark run, each built once by the command that users run, in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import build_engines


class Builds:
    """Builds `tiny` into folders under `root`, for this run alone: a benchmark of older engines would lie.

    Args:
        root: where the folders go.
        together: the backends that one build makes, in one folder, from one reference. Any other has its own build.
    """

    def __init__(self, root: Path, together: Iterable[str]) -> None:
        self._root, self._together = root, tuple(together)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, backend: str) -> None:
        """Begins to build beside what else is to be prepared. `folder` must return before anything is timed."""
        backends = self._built_with(backend)
        if backends in self._processes:
            return
        command = [sys.executable, build_engines.__file__, "--backend", backends, "--out", str(self._path(backends))]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        with self._log(backends).open("wb") as log:
            self._processes[backends] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def folder(self, backend: str) -> Path:
        """The folder with the engines of this backend, among others. Fails with what the build said."""
        self.start(backend)
        backends = self._built_with(backend)
        status = self._processes[backends].wait()
        assert status == 0, f"the build of {backends} ended with {status}:\n{self._log(backends).read_text()}"
        return self._path(backends)

    def close(self) -> None:
        """Ends the builds that nobody waited for."""
        for process in self._processes.values():
            process.terminate()
            process.wait()

    def _built_with(self, backend: str) -> str:
        return ",".join(self._together) if backend in self._together else backend

    def _path(self, backends: str) -> Path:
        return self._root / backends.replace(",", "-")

    def _log(self, backends: str) -> Path:
        return self._root / f"{backends.replace(',', '-')}.log"
