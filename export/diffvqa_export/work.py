"""The work folder of a build: each finished step is kept with the hash of its inputs, so nothing is done twice.

It stands beside the engine folder and survives an interruption; the next build with the same `--out` goes on from it. A
finished build moves its files to the engine folder, and the next one finds them there.
"""

import fcntl
import hashlib
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from diffvqa_rt.engines.manifest import Manifest
from diffvqa_rt.errors import EngineBuildError
from diffvqa_rt.files import sha256_of, write_whole
from diffvqa_rt.specs import MANIFEST_NAME

STEPS_NAME = "steps.json"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Step:
    """A finished step and what it left.

    Attributes:
        key: the hash of its inputs.
        files: path in the work folder → SHA-256.
        facts: small JSON values.
        seconds: what it took.
        peak_memory_bytes: of the process up to the step's end, or of the largest that it started.
    """

    key: str
    files: dict[str, str]
    facts: dict[str, Any]
    seconds: float
    peak_memory_bytes: int


class WorkFolder:
    """Used as a context: one build at a time works in it. `steps`: those that this build asked for.

    Raises on entering:
        EngineBuildError: another build is working there, or the folder is somebody else's.
    """

    def __init__(self, out: Path, progress: Progress) -> None:
        self.path = out.parent / f"{out.name}.work"
        self._out = out
        self._progress = progress
        self._steps: dict[str, Step] = {}
        self.steps: dict[str, Step] = {}

    def __enter__(self) -> "WorkFolder":
        if self.path.exists() and any(self.path.iterdir()) and not self._lock_path.exists():
            raise EngineBuildError(f"{self.path} is not a build's work folder; choose another --out, or move it")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = self._lock_path.open("w")
        try:
            # The kernel takes it back when the process ends, however it ends.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise EngineBuildError(
                f"another build is working in {self.path}; wait for it, or choose another --out"
            ) from None
        self._recover()
        self._steps = self._read_steps()
        self._give_back()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()
        self._lock.close()

    @property
    def _lock_path(self) -> Path:
        return self.path / "lock"

    def _recover(self) -> None:
        """After a build that stopped while it moved its files: the older engines back in place, the new files here."""
        new, old = self.path / "new", self.path / "old"
        if old.exists() and not self._out.exists():
            old.rename(self._out)
        if new.exists():
            # Without its manifest: nobody is to open this folder.
            for source in [path for path in new.rglob("*") if path.is_file() and path.name != MANIFEST_NAME]:
                target = self.path / source.relative_to(new)
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)

    def _give_back(self) -> None:
        """Removes this folder's names of files that are in the engine folder: ONNX's tools refuse files with two."""
        for file in {file for step in self._steps.values() for file in step.files}:
            here, there = self.path / file, self._out / file
            if here.exists() and there.exists() and here.samefile(there):
                here.unlink()

    def do(self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], dict[str, Any]]) -> Step:
        """The step's result: of an earlier run if that had the same inputs and its files are unchanged, else made now.

        Args:
            name: shown as progress.
            inputs: all that the result depends on, as JSON values.
            make: writes the step's files into the empty folder it is given and returns the facts to remember.
        """
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        if self.is_done(name, key):
            self._progress(f"{name}: done before")
            self.steps[name] = self._steps[name]
            return self._steps[name]
        self._progress(name)
        start = time.perf_counter()
        partial = self.path / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        facts = make(partial)
        files = {}
        for source in sorted(path for path in partial.rglob("*") if path.is_file()):
            file = source.relative_to(partial).as_posix()
            target = self.path / file
            target.parent.mkdir(parents=True, exist_ok=True)
            files[file] = sha256_of(source)
            source.replace(target)
        shutil.rmtree(partial)
        self._steps[name] = Step(key, files, facts, round(time.perf_counter() - start, 1), peak_memory_bytes())
        self._write_steps()
        self.steps[name] = self._steps[name]
        return self._steps[name]

    def is_done(self, name: str, key: str) -> bool:
        step = self._steps.get(name)
        return (
            step is not None and step.key == key and all(self._has(file, sha256) for file, sha256 in step.files.items())
        )

    def _has(self, file: str, sha256: str) -> bool:
        """True where the file is here, unchanged; one that a finished build took is linked back first."""
        here, there = self.path / file, self._out / file
        if not here.is_file() and there.is_file():
            here.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(there, here)
            except OSError:
                shutil.copy2(there, here)
        return here.is_file() and sha256_of(here) == sha256

    def put_in_place(self, files: Set[str], manifest: Manifest) -> None:
        """Moves the files to a new engine folder and renames it; one that is there gives way at the last moment."""
        new, old = self.path / "new", self.path / "old"
        new.mkdir()
        for file in files:
            (new / file).parent.mkdir(parents=True, exist_ok=True)
            (self.path / file).replace(new / file)
        manifest.write(new)
        if self._out.exists():
            self._out.rename(old)
        new.rename(self._out)
        shutil.rmtree(old, ignore_errors=True)

    def _read_steps(self) -> dict[str, Step]:
        try:
            values = json.loads((self.path / STEPS_NAME).read_text(encoding="utf-8"))
            return {name: Step(**fields) for name, fields in values.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}  # nothing to go on from: every step is done again

    def _write_steps(self) -> None:
        text = json.dumps({name: asdict(step) for name, step in self._steps.items()}, indent=1)
        write_whole(self.path / STEPS_NAME, lambda part: part.write_text(text, encoding="utf-8"))


def peak_memory_bytes() -> int:
    """The peak of this process so far, or of the largest that it started: compilers run beside it."""
    kib = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return 1024 * kib
