"""Whether a server is at work, and whether it takes requests: what its starter and its models' processes share."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from diffvqa_rt.serving.models import Form

# Between two stages of one request nobody is at work, for a moment; in the production form Triton server itself is, and
# locks nothing.
_IDLE_SECONDS: dict[Form, float] = {"embedded": 0.5, "production": 5.0}


class Traffic:
    """Files in a folder: those that models lock while they work, and one that is there once requests are refused.

    The system gives up a process's locks with the process, so one that was killed is not waited for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = folder / "at_work"
        self._stopped = folder / "stopped"
        folder.mkdir(exist_ok=True)
        self._lock.touch()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """For a model, around its work."""
        with self._lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    @contextmanager
    def occupying(self, model: str) -> Iterator[None]:
        """For a model, around its work, where others hand over to it when it is free."""
        with self._place(model).open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def wait_until_free(self, model: str) -> None:
        """Returns when a model is not at work."""
        with self._place(model).open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)

    def _place(self, model: str) -> Path:
        return self.folder / f"{model}_at_work"

    @property
    def is_stopped(self) -> bool:
        """True where new requests are to be refused."""
        return self._stopped.exists()

    def stop(self) -> None:
        self._stopped.touch()

    def wait_until_idle(self, timeout_seconds: float, form: Form, is_over: Callable[[], bool]) -> None:
        """Returns when no model has been at work for a moment, when the time is over, or something else `is_over`."""
        deadline = time.monotonic() + timeout_seconds
        busy_until = time.monotonic()
        with self._lock.open("rb") as file:
            while time.monotonic() < min(busy_until + _IDLE_SECONDS[form], deadline) and not is_over():
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    fcntl.flock(file, fcntl.LOCK_UN)
                except BlockingIOError:
                    busy_until = time.monotonic()
                time.sleep(0.02)
