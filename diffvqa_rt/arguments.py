"""Arguments that several subcommands of `diffvqa` have, the kinds of numbers that they are, and bad ones."""

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from diffvqa_rt.checks import MAX_COUNT
from diffvqa_rt.engines import BACKENDS, MAX_THREADS
from diffvqa_rt.engines.bundled import BUNDLED_ENGINES
from diffvqa_rt.errors import DiffVQAError

BUNDLED_NOTE = "those of the package, of the bundled weights"
"""The help's word for `BUNDLED_ENGINES`."""
_ALL_THREADS = "CPU threads (default: all that this process may use)"


class UsageError(DiffVQAError):
    """Arguments do not fit together, or one is wrong in a way that the parser cannot see; ends with status 2."""


@contextmanager
def checked_arguments() -> Iterator[None]:
    """Turns a ValueError, of what is made from arguments, into a UsageError."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def add_engine_arguments(
    command: argparse.ArgumentParser,
    engines: Path | None = BUNDLED_ENGINES,
    default_note: str = BUNDLED_NOTE,
    threads: str = _ALL_THREADS,
) -> None:
    """Adds `--engines`, `--threads` and `--backend`.

    `default_note` is the help's word for the default, `engines`; `threads` is the help of `--threads`.
    """
    command.add_argument(
        "--engines",
        type=Path,
        default=engines,
        metavar="DIR",
        help=f"the engine folder that export/build_engines.py wrote (default: {default_note})",
    )
    add_runtime_arguments(command, threads)


def add_runtime_arguments(command: argparse.ArgumentParser, threads: str = _ALL_THREADS) -> None:
    """Adds `--threads` and `--backend`."""
    command.add_argument(
        "--threads",
        type=whole_number(1, MAX_THREADS),
        metavar="N",
        help=threads,
    )
    command.add_argument(
        "--backend", choices=BACKENDS, default="onnx", help="the runtime that plays the engines (default: %(default)s)"
    )


def whole_number(least: int, most: int = MAX_COUNT) -> Callable[[str], int]:
    """Returns a parser of an argument's text: a number of this range, or a sentence that refuses the text."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return number

    return parse


def number(text: str) -> float:
    """Returns an argument's text as a finite number, or refuses it in a sentence."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value
