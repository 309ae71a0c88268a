"""State that a forked child must not share: it lacks the parent's threads, and the parent's pipes are not its own."""

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """An object with state of one process."""

    def renew_after_fork(self) -> None:
        """Lets go of the parent's state without touching the parent's; called in the child, which has one thread."""


_renewables: "weakref.WeakSet[Renewable]" = weakref.WeakSet()


def renew_in_children(renewable: Renewable) -> None:
    """Has the object renewed in every child that this process forks, for as long as the object lives."""
    _renewables.add(renewable)


def _renew_all() -> None:
    for renewable in list(_renewables):
        renewable.renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
