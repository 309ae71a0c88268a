"""The `diffvqa` command. It is imported in a moment; the subcommands are imported once it runs."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvqa_rt import __version__
from diffvqa_rt.interrupts import INTERRUPTED, Interrupts

if TYPE_CHECKING:
    from diffvqa_rt.commands.command import Command


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 bad arguments, 130 interrupted. Argparse's own exit is a SystemExit."""
    with Interrupts() as interrupts:
        try:
            with interrupts.importing():
                from diffvqa_rt.commands import COMMANDS
            return _run(COMMANDS, argv)
        except KeyboardInterrupt:
            return INTERRUPTED
        except Exception:  # out of the middle of an import, Ctrl-C may come out as anything
            if interrupts.is_noted:
                return INTERRUPTED
            raise


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The arguments of the command line. Raises SystemExit as argparse does."""
    from diffvqa_rt.commands import COMMANDS

    return _parse(_of_the_metric(COMMANDS, argv), argv)


class _Parser(argparse.ArgumentParser):
    """Fails where the help cannot be written; argparse would call that done."""

    def _print_message(self, message: str, file: Any = None) -> None:
        from diffvqa_rt.standard_output import print_results

        if file is sys.stdout and message:
            print_results(message, end="")
        else:
            super()._print_message(message, file)


class _PrintCompletion(argparse.Action):
    """Prints what a shell reads to complete the command's words, and ends: the default metric's arguments."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        import shtab

        from diffvqa_rt.standard_output import print_results

        for action in _actions(parser):
            # What stands without an option is files or folders, in every subcommand.
            if action.type is Path or action.metavar in ("DIR", "FILE") or not action.option_strings:
                # shtab reads this attribute, which argparse does not declare.
                action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # type: ignore[attr-defined]
        print_results(shtab.complete(parser, shell=values), end="")
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser and of its subcommands, whose descriptions are cut to their help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subcommand in action._choices_actions:
                subparser = action.choices[subcommand.dest]
                subparser.description = subcommand.help  # which a shell shows in a line
                yield from _actions(subparser)
        else:
            yield action


def _of_the_metric(commands: "Sequence[Command]", argv: list[str] | None) -> "Sequence[Command]":
    """The commands with the arguments of the metric that `--metric` names, which decides what else may be given."""
    from diffvqa_rt.metrics.registry import DEFAULT, METRICS

    first_look = argparse.ArgumentParser(add_help=False)
    first_look.add_argument("--metric", nargs="?")
    metric = first_look.parse_known_args(argv)[0].metric
    # What is no metric is for the command's own parser to refuse.
    name = metric if metric in METRICS else DEFAULT
    return [command.for_metric(name) if command.for_metric else command for command in commands]


def _parse(commands: "Sequence[Command]", argv: list[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="diffvqa",
        description="Score the quality of videos without a reference, with the DiffVQA network.",
        epilog="Exit status: 0 done, 1 something failed (a sentence on stderr says what), 2 wrong arguments.",
    )
    parser.add_argument("--version", action="version", version=f"diffvqa {__version__}")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh", "fish"),
        help="print this command's completion for a shell, and exit",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in commands:
        subparser = subparsers.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            epilog=command.epilog,
            formatter_class=command.formatter,
        )
        command.add_arguments(subparser)
    return parser.parse_args(argv)


def _run(commands: "Sequence[Command]", argv: list[str] | None) -> int:
    from diffvqa_rt.arguments import UsageError
    from diffvqa_rt.errors import DiffVQAError, InputError
    from diffvqa_rt.standard_output import prepare_streams

    try:
        prepare_streams()
        commands = _of_the_metric(commands, argv)
        arguments = _parse(commands, argv)
        return next(command for command in commands if command.name == arguments.command).perform(arguments)
    except BrokenPipeError:  # the reader of the results, or of the sentences, has gone
        return 1
    except DiffVQAError as error:
        print(f"diffvqa: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError | InputError) else 1


if __name__ == "__main__":
    sys.exit(main())
