"""A subcommand of `diffvqa`: its registration."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from diffvqa_rt.errors import DiffVQAError


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One subcommand.

    Attributes:
        name: the word on the command line.
        help: its line in `diffvqa --help`.
        description, epilog: the text before and after the arguments in its own help.
        formatter: lays that text out.
        add_arguments: adds the arguments to the subcommand's parser.
        run: does the work. Returns the exit status.
        memory_advice: the arguments that make it take less memory, as the end of a sentence; None without such.
        for_metric: the same subcommand with another metric's arguments, where each metric has its own; this one is then
            the default metric's.
    """

    name: str
    help: str
    description: str
    epilog: str | None = None
    formatter: type[argparse.HelpFormatter] = argparse.HelpFormatter
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    memory_advice: str | None = None
    for_metric: "Callable[[str], Command] | None" = None

    def perform(self, arguments: argparse.Namespace) -> int:
        """Runs the subcommand. Returns the exit status.

        Raises:
            DiffVQAError: as `run` does, and where the system refuses it a file or memory.
            BrokenPipeError: a reader has gone.
        """
        try:
            return self.run(arguments)
        except BrokenPipeError:
            raise
        except OSError as error:
            place = "" if error.filename is None else f" at {error.filename}"
            raise DiffVQAError(f"{self.name} failed{place} ({error.strerror or error})") from error
        except MemoryError as error:
            advice = f"; {self.memory_advice}" if self.memory_advice else ""
            raise DiffVQAError(f"not enough memory ({error}){advice}") from error
