"""Ctrl-C while a command runs."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended."""


class Interrupts:
    """Handles Ctrl-C while the command runs, unless the caller has another use for it.

    It raises KeyboardInterrupt, as always, and is noted: out of the middle of an import it may come out as another
    exception. While our own modules are imported, where it might be lost, it ends the process.
    """

    def __init__(self) -> None:
        self.is_noted = False
        self._is_importing = False
        self._before = signal.getsignal(signal.SIGINT)
        # What a script starts in the background is told to ignore the signal; one that is sent is meant all the same.
        is_unused = self._before in (signal.default_int_handler, signal.SIG_IGN)
        self._is_ours = is_unused and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Interrupts":
        if self._is_ours:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            signal.signal(signal.SIGINT, self._before)

    @contextlib.contextmanager
    def importing(self) -> Iterator[None]:
        self._is_importing = True
        yield
        self._is_importing = False

    def _note(self, number: int, frame: object) -> None:
        if self._is_importing:
            os._exit(INTERRUPTED)
        self.is_noted = True
        raise KeyboardInterrupt
