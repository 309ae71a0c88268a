"""Standard output, where a command's results go. A failure to write them is told apart from every other one."""

import contextlib
import io
import os
import sys

from diffvqa_rt.errors import DiffVQAError


class OutputError(DiffVQAError):
    """Standard output does not take the results."""


def prepare_streams() -> None:
    """Makes the standard streams fit for results and sentences. Raises OutputError where there is no output."""
    if sys.stderr is None:  # closed by the caller, and print() would then write to stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        raise OutputError("standard output is closed, and the results go there")
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold what the terminal's encoding lacks; that must not cost the results.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_results(text: str, end: str = "\n") -> None:
    """Writes text to standard output at once.

    Raises:
        BrokenPipeError: the reader (`| head`) has gone.
        OutputError: it cannot be written, as on a disk that is full.
    """
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        _leave_standard_output()
        raise
    except OSError as error:
        _leave_standard_output()
        raise OutputError(f"the results cannot be written ({error.strerror or error})") from error


def _leave_standard_output() -> None:
    """Points standard output to nowhere, so that what is still buffered does not raise at exit."""
    with contextlib.suppress(OSError):  # where it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
