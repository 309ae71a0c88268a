"""Calls and pauses that end with whoever waits for them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Waiter:
    """Somebody who waits for answers. Once he has left, no pause goes on and no call is under way for him."""

    def __init__(self) -> None:
        self._left = threading.Event()
        self._calls: set[Any] = set()
        self._lock = threading.Lock()

    @property
    def has_left(self) -> bool:
        return self._left.is_set()

    def leave(self) -> None:
        with self._lock:
            self._left.set()
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def pause(self, seconds: float) -> None:
        self._left.wait(seconds)

    @contextmanager
    def waiting_for(self, call: Any) -> Iterator[None]:
        """A call is cancelled where he leaves, or whoever runs the block leaves it by an exception."""
        with self._lock:
            self._calls.add(call)
            has_left = self.has_left
        if has_left:
            call.cancel()
        try:
            yield
        except BaseException:
            call.cancel()
            raise
        finally:
            with self._lock:
                self._calls.discard(call)
