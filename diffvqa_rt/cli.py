"""The `diffvqa` command. It is imported in a moment; what the subcommands need is imported once it runs."""

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from diffvqa_rt import __version__

Commands = dict[str, tuple[Callable[..., None], Callable[[argparse.Namespace], int]]]

_INTERRUPTED = 130


def _import_commands() -> Commands:
    """Each subcommand's name, what adds its arguments, and what runs it."""
    from diffvqa_rt.commands.adapt import add_adapt_command, run_adapt
    from diffvqa_rt.commands.diagnose import add_diagnose_command, run_diagnose
    from diffvqa_rt.commands.evaluate import add_evaluate_command, run_evaluate
    from diffvqa_rt.commands.plan import add_plan_command, run_plan
    from diffvqa_rt.commands.score import (
        add_client_command,
        add_info_command,
        add_score_command,
        run_client,
        run_info,
        run_score,
    )
    from diffvqa_rt.commands.serve import add_serve_command, run_serve
    from diffvqa_rt.commands.train import add_train_command, run_train

    return {
        "score": (add_score_command, run_score),
        "info": (add_info_command, run_info),
        "serve": (add_serve_command, run_serve),
        "client": (add_client_command, run_client),
        "plan": (add_plan_command, run_plan),
        "adapt": (add_adapt_command, run_adapt),
        "train": (add_train_command, run_train),
        "evaluate": (add_evaluate_command, run_evaluate),
        "diagnose": (add_diagnose_command, run_diagnose),
    }


class _Parser(argparse.ArgumentParser):
    """Fails where the help cannot be written; argparse would call that done."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout and message:
            file.write(message)
            file.flush()
        else:
            super()._print_message(message, file)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The arguments of the command line. Raises SystemExit as argparse does."""
    return _parse(_import_commands(), argv)


def _parse(commands: Commands, argv: list[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="diffvqa",
        description="Score the quality of videos without a reference, with the DiffVQA network.",
        epilog="Exit status: 0 done, 1 something failed (a sentence on stderr says what), 2 wrong arguments.",
    )
    parser.add_argument("--version", action="version", version=f"diffvqa {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add, _ in commands.values():
        add(subparsers)
    return parser.parse_args(argv)


class _Interrupts:
    """What Ctrl-C does while the command runs, unless the caller has another use for it.

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

    def __enter__(self) -> "_Interrupts":
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
            os._exit(_INTERRUPTED)
        self.is_noted = True
        raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 bad arguments, 130 interrupted. Argparse's own exit is a SystemExit."""
    with _Interrupts() as interrupts:
        try:
            with interrupts.importing():
                commands = _import_commands()
            return _run(commands, argv)
        except KeyboardInterrupt:
            return _INTERRUPTED
        except Exception:
            if interrupts.is_noted:
                return _INTERRUPTED
            raise


def _run(commands: Commands, argv: list[str] | None) -> int:
    from diffvqa_rt.errors import DiffVQAError

    if sys.stderr is None:  # closed by the caller, and print() would then write to stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        print("diffvqa: standard output is closed, and the results go there", file=sys.stderr)
        return 1
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold what the terminal's encoding lacks; that must not cost the results.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments = _parse(commands, argv)
        _, run = commands[arguments.command]
        status = run(arguments)
        sys.stdout.flush()
        return status
    except DiffVQAError as error:
        print(f"diffvqa: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        _leave_standard_output()
        return 1
    except OSError as error:
        print(f"diffvqa: the results cannot be written ({error.strerror or error})", file=sys.stderr)
        _leave_standard_output()
        return 1
    except ValueError as error:  # an argument that the parser cannot judge
        print(f"diffvqa: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"diffvqa: not enough memory ({error}); use a smaller --batch or fewer --crops", file=sys.stderr)
        return 1


def _leave_standard_output() -> None:
    """What is still buffered, for a reader (`| head`) that has gone or a disk that is full, must not raise at exit."""
    with contextlib.suppress(OSError):  # where it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
