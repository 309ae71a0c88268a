"""The life of decoders' processes: started when needed, kept while they are sound, and ended with their owner."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from diffvqa_rt.decoding.framing import Message, receive_message, send_message
from diffvqa_rt.errors import DecoderStartError
from diffvqa_rt.forking import renew_in_children

# No secrets of this process's.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG")
_START_SECONDS = 120.0
# For an answer that has long been ready, where nobody looked before the video's time was over.
_LOOK_SECONDS = 1.0


class ProcessEndedError(Exception):
    """A decoder's process has ended, by the signal or with the status that this says."""


class TimeIsOverError(Exception):
    """A video has taken longer than it may, and its process has been ended."""


class DecoderProcess:
    """One process, which takes one request after another; it belongs to the process that started it."""

    def __init__(self, python: str | None) -> None:
        """Starts it, and does not wait for it.

        Raises:
            DecoderStartError: the system refuses.
        """
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        if python is None:
            # The same interpreter finds the same packages, wherever it has them from.
            environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
        command = [python or sys.executable, "-P", "-m", "diffvqa_rt.decoding.worker"]
        self._command = command
        self._connection, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=_standard_error(),  # what a library prints must not end up among the results
                    cwd="/",
                    env=environment,
                    process_group=0,  # Ctrl-C is for the process that waits, which ends this one
                )
        except OSError as error:
            self._connection.close()
            raise DecoderStartError(
                f"the decoder's process cannot be started ({' '.join(command)}: {error.strerror or error})"
            ) from error
        self._is_ready = False
        self._sent = 0.0

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, request: dict[str, Any], file: int, seconds: float) -> None:
        """Hands over a request and its open file; the answer's time begins.

        Raises:
            DecoderStartError: the process does not come up.
            ProcessEndedError: it is gone, or does not listen.
        """
        if not self._is_ready:
            self._wait_until_ready()
        self._sent = time.monotonic()
        self._connection.settimeout(seconds)
        try:
            send_message(self._connection, request, file=file)
        except OSError as error:
            raise ProcessEndedError(self.end()) from error

    def receive(self, allocate: Callable[[int], memoryview], seconds: float) -> Message:
        """The answer to what was sent.

        Args:
            allocate: as for `receive_message`.
            seconds: how long the process may take from the request to the answer.

        Raises:
            TimeIsOverError, ProcessEndedError: there is none; the process is gone.
        """
        deadline = max(self._sent + seconds, time.monotonic() + _LOOK_SECONDS)
        try:
            message = receive_message(self._connection, allocate, deadline=deadline)
            if message is None:
                raise EOFError
            return message
        except TimeoutError as error:
            self.end()
            raise TimeIsOverError from error
        except (OSError, EOFError, ValueError) as error:
            reason = self.end()
            # By its own clock.
            raise (TimeIsOverError() if reason == signal.SIGALRM.name else ProcessEndedError(reason)) from error

    def _wait_until_ready(self) -> None:
        try:
            if receive_message(self._connection, deadline=time.monotonic() + _START_SECONDS) is None:
                raise EOFError
        except (OSError, EOFError, ValueError) as error:
            reason = self.end()
            raise DecoderStartError(
                f"the decoder's process does not start ({reason}: {' '.join(self._command)})"
            ) from error
        self._is_ready = True

    def end(self) -> str:
        """Ends it at once, if it has not ended already. Returns how it ended."""
        self._connection.close()
        self._process.kill()
        status = self._process.wait()
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    def disown(self) -> None:
        """In a forked child: leaves the process to the parent."""
        self._connection.close()
        self._process.returncode = 0  # so that nothing here waits for it or kills it


class DecoderProcesses:
    """The processes of one decoder: as many as threads ask at a time, each kept for the next video."""

    def __init__(self, python: str | None) -> None:
        self._python = python
        self._lock = threading.Lock()
        self._idle: list[DecoderProcess] = []
        self._all: set[DecoderProcess] = set()
        renew_in_children(self)

    def take(self) -> DecoderProcess:
        """An idle process, or a new one as from `start`."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self.start()

    def start(self) -> DecoderProcess:
        """A new process that nobody uses, until it is given back or ended. Raises DecoderStartError."""
        process = DecoderProcess(self._python)
        with self._lock:
            self._all.add(process)
        return process

    def give_back(self, process: DecoderProcess) -> None:
        """Keeps a process that has answered; one that is of another time or was ended is let go."""
        with self._lock:
            if process in self._all:
                self._idle.append(process)

    def end(self, process: DecoderProcess) -> None:
        with self._lock:
            is_ours = process in self._all
            self._all.discard(process)
        if is_ours:
            process.end()

    def end_all(self) -> None:
        with self._lock:
            ended, self._all, self._idle = self._all, set(), []
        for process in ended:
            process.end()

    def renew_after_fork(self) -> None:
        self._lock = threading.Lock()
        for process in self._all:
            process.disown()
        self._all, self._idle = set(), []


def _standard_error() -> int:
    """The number of this process's standard error, or `subprocess.DEVNULL` where that is closed."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2
