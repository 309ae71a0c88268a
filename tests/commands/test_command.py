"""Errors of a subcommand: a foreseen one is a sentence and an exit status; a fault of ours stays what it is."""

import argparse
import subprocess
import sys

import pytest

from diffvqa_rt import Scorer, cli
from diffvqa_rt.arguments import UsageError, checked_arguments
from diffvqa_rt.commands import COMMANDS
from diffvqa_rt.commands.command import Command
from diffvqa_rt.errors import DiffVQAError, InputError, VideoDecodeError


def raising(error):
    def raise_error(*_, **__):
        raise error

    return raise_error


def perform(error, memory_advice=None):
    """The sentence that a command ends with."""
    command = Command(
        name="dream", help="", description="", add_arguments=print, run=raising(error), memory_advice=memory_advice
    )
    with pytest.raises(DiffVQAError) as raised:
        command.perform(argparse.Namespace())
    return str(raised.value)


def test_an_error_of_the_system_says_what_failed_and_where():
    assert perform(PermissionError(13, "Permission denied", "/a/b")) == "dream failed at /a/b (Permission denied)"
    assert perform(OSError(28, "No space left on device")) == "dream failed (No space left on device)"
    assert perform(OSError("neither a file nor a pipe")) == "dream failed (neither a file nor a pipe)"


def test_advice_for_memory_is_that_of_the_command():
    error = MemoryError("a lot")
    assert perform(error) == "not enough memory (a lot)"
    assert perform(error, "use a smaller --batch") == "not enough memory (a lot); use a smaller --batch"


def test_advice_for_memory_names_arguments_that_the_command_has():
    for command in COMMANDS:
        parser = argparse.ArgumentParser(add_help=False)
        command.add_arguments(parser)
        advised = [word for word in (command.memory_advice or "").split() if word.startswith("--")]
        assert set(advised) <= set(parser._option_string_actions), command.name


def test_what_is_made_of_arguments_refuses_them():
    with pytest.raises(UsageError, match="^steps is 0$"), checked_arguments():
        raise ValueError("steps is 0")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("these do not fit together"), 2),
        (InputError("crops is 4; this server takes at most 3"), 2),
        (VideoDecodeError("x is empty"), 1),
        (MemoryError("a lot"), 1),
        (OSError(28, "No space left on device"), 1),
    ],
    ids=repr,
)
def test_a_foreseen_error_is_one_sentence_and_a_status(monkeypatch, capsys, error, status):
    monkeypatch.setattr(Scorer, "open", raising(error))
    assert cli.main(["score", "x.mp4"]) == status
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("diffvqa: ") and err.count("\n") == 1
    assert "results cannot be written" not in err


@pytest.mark.parametrize("error", [ValueError("a bug"), TypeError("a bug"), KeyError("a bug")], ids=repr)
def test_a_fault_of_ours_blames_no_argument(monkeypatch, error):
    monkeypatch.setattr(Scorer, "open", raising(error))
    with pytest.raises(type(error)):
        cli.main(["score", "x.mp4"])


@pytest.mark.parametrize("argument", ["--help", "--version", "doctor"])
def test_what_only_tells_imports_no_runtime(argument):
    program = (
        "import contextlib, sys; from diffvqa_rt import cli\n"
        f"with contextlib.suppress(SystemExit): cli.main([{argument!r}])\n"
        "print(sorted({'torch', 'onnxruntime', 'grpc', 'tritonclient', 'scipy', 'matplotlib'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
