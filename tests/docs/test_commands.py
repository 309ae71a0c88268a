"""Every shell command of README and docs/ is one that its program takes, on files that are there by then."""

import argparse
import re
import runpy
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from shell_blocks import ROOT, ShellCommand, blocks, commands, pages

from diffvqa_rt.engines.backends import BACKENDS
from diffvqa_rt.metrics.registry import metric_named

ALL = [command for page in pages() for command in commands(page)]
# What stands for files of the reader's own.
READERS = {
    *(
        "clip.mp4",
        "other.mov",
        "videos",
        "photo.jpg",
        "photos",
        "sample.gif",
        "samples",
        "prompts.csv",
        "before",
        "after",
    ),
    *("mine.csv", "dover.csv", "mine_scores.csv", "scores", "pairs.csv", "my.safetensors", "checkpoints", "published"),
    *("a.mp4", "b.mp4", "c.mp4", "clips", "extra.csv", "x264.json", "av1.json"),
    *("stable-diffusion-2-1-base", "vocab.txt", "vit.pth", "resnet50.pth"),
}


class Parsed(BaseException):
    """Carries a program's arguments out of it, right after it has parsed them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments


def parsed(program: str, arguments: list[str], monkeypatch) -> argparse.Namespace:
    """The arguments as the program itself understands them; of a program, its path or its module's name.

    A program that refuses them ends with a SystemExit.
    """
    parse = argparse.ArgumentParser.parse_args

    def and_leave(parser, *given, **named):
        raise Parsed(parse(parser, *given, **named))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", and_leave)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    run, name = (runpy.run_path, str(ROOT / program)) if program.endswith(".py") else (runpy.run_module, program)
    with pytest.raises(Parsed) as caught:
        run(name, run_name="__main__")
    return caught.value.arguments


def program_of(command: ShellCommand) -> tuple[str, list[str]] | None:
    """The Python program that a command runs, by its path or module, and its arguments; None for other programs."""
    words = list(command.words[1:])
    if command.program == "diffvqa":
        return "diffvqa_rt.cli", words
    if command.program == "accelerate" and words[0] == "launch":
        words = words[1:]
    elif command.program == "docker" and words[0] == "run":
        (image,) = (place for place, word in enumerate(words) if word.startswith("diffvqa-rt"))
        is_builder = words[image].startswith("diffvqa-rt-builder:")
        arguments = words[image + 1 :]
        return ("export/build_engines.py", arguments) if is_builder else ("diffvqa_rt.cli", ["serve", *arguments])
    elif command.program not in ("python", "python3"):
        return None
    if words[:2] == ["-m", "venv"]:
        return None
    return (words[1], words[2:]) if words[0] == "-m" else (words[0], words[1:])


@pytest.mark.parametrize("command", [item for item in ALL if program_of(item)], ids=str)
def test_the_program_takes_the_arguments(command, monkeypatch):
    program, words = program_of(command)
    arguments = parsed(program, words, monkeypatch)
    if program == "export/build_engines.py":
        preset = metric_named(arguments.metric).preset_named(arguments.preset)
        assert preset is not None and set(arguments.backend.split(",")) <= set(BACKENDS)
        assert arguments.precision in ("fp32", "fp16", "bf16")


def test_an_option_that_is_not_there_is_found(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parsed("diffvqa_rt.cli", ["score", "--no-such-option", "clip.mp4"], monkeypatch)
    assert "--no-such-option" in capsys.readouterr().err


OTHERS = {"ffmpeg", "make", "pip", "pytest", "docker", "kubectl", ".", "python3"}


@pytest.mark.parametrize("command", [item for item in ALL if not program_of(item)], ids=str)
def test_other_programs_find_what_they_name(command):
    assert command.program in OTHERS, "say here how this program's commands are checked"
    words = command.words[1:]
    match command.program:
        case "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            assert set(words[:1]) <= set(targets)
        case "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            for wanted in re.findall(r"\[([\w,-]+)\]", command.text):
                assert set(wanted.split(",")) <= extras.keys()
            assert "-c" not in words or (ROOT / words[words.index("-c") + 1]).exists()
        case "docker":
            file, target = (words[words.index(option) + 1] for option in ("-f", "--target"))
            assert f" AS {target}\n" in (ROOT / file).read_text(encoding="utf-8")
        case "kubectl":
            assert (ROOT / words[-1]).exists()
        case "pytest":
            assert all((ROOT / word).exists() for word in words if not word.startswith("-"))


# After these comes what a command writes.
OUT = {"--out", "diffvqa_rt.synthetic.prompted.clips"}


def named_paths(command: ShellCommand) -> list[str]:
    """The paths in a command's words: what has a slash or a suffix; of NAME=PATH the path, of a pattern its folder."""
    program, words = program_of(command)
    outs = made_by(command)
    paths = [program] if program.endswith(".py") else []
    paths += [word.rpartition("=")[2] for word in (*words, *command.reads) if word not in outs]
    paths = [re.sub(r"[^/]*[{*].*", "", path) for path in paths]
    paths = [path for path in paths if not path.startswith("--") and "://" not in path]
    return [path for path in paths if re.search(r"/|\.[A-Za-z]\w+$", path)]


def made_by(command: ShellCommand) -> set[str]:
    """The folders and files that a command leaves."""
    words = command.words
    made = {words[place + 1] for place, word in enumerate(words) if word in OUT} | set(command.writes)
    if "export/build_engines.py" in words and not made:
        given = dict(pairwise(words))
        label = "-".join(filter(None, (given.get("--metric"), given.get("--preset", "tiny"))))
        made = {f"build/{label}"}
    return made


def is_of(path: str, made: set[str]) -> bool:
    """True where a path lies in something that was made, or has it inside."""
    return any(Path(path).is_relative_to(item) or Path(item).is_relative_to(path) for item in made)


def test_every_path_is_the_readers_is_in_the_repository_or_was_made_before():
    made: set[str] = set()
    lost = []
    for command in ALL:
        if program_of(command) and command.program != "docker":
            for path in named_paths(command):
                is_ours = not path.startswith(("build/", "runs/")) and (ROOT / path).exists()
                if not (path.startswith("/") or path.split("/")[0] in READERS or is_ours or is_of(path, made)):
                    lost.append(f"{path} in {command}")
        made |= made_by(command)
    assert lost == []


def test_the_readers_files_are_named_somewhere():
    text = " ".join(" ".join((*command.words, *command.reads)) for command in ALL)
    assert {name for name in READERS if not re.search(rf"(^|[ =@]){re.escape(name)}", text)} == set()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_python_blocks_are_python(page):
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")
