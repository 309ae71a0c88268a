"""`diffvqa --print-completion`: the shells' own interpreters complete by what it prints."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diffvqa_rt import cli
from diffvqa_rt.commands import COMMANDS

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def script(tmp_path, capsys) -> Callable[[str], Path]:
    """Writes a shell's completion beside a clip and a folder, and returns its path."""
    (tmp_path / "files" / "folder").mkdir(parents=True)
    (tmp_path / "files" / "clip.mp4").touch()

    def write(shell: str) -> Path:
        with pytest.raises(SystemExit) as ended:
            cli.main(["--print-completion", shell])
        assert ended.value.code == 0
        path = tmp_path / f"completion.{shell}"
        path.write_text(capsys.readouterr().out)
        return path

    return write


def run(script: Path, shell: str, *arguments: str) -> list[str]:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    # The interpreter's start-up files are not of this test.
    environment = {**os.environ, "HOME": str(script.parent)}
    done = subprocess.run(
        [program, *arguments],
        cwd=script.parent / "files",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def in_bash(script: Path, line: str) -> list[str]:
    words = f"COMP_WORDS=(diffvqa {line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))"
    program = f"source {script}; {words}; _shtab_diffvqa; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    return run(script, "bash", "--norc", "-c", program)


def in_fish(script: Path, line: str) -> list[str]:
    found = run(script, "fish", "-c", f"source {script}; complete -C 'diffvqa {line}'".replace("''", ""))
    return [word.partition("\t")[0] for word in found]


@pytest.mark.parametrize("complete", [in_bash, in_fish])
def test_commands_options_choices_and_files_are_completed(script, complete):
    path = script(complete.__name__.removeprefix("in_"))
    assert {command.name for command in COMMANDS} <= set(complete(path, "''"))
    assert "--format" in complete(path, "score --form")
    assert set(complete(path, "score --format ''")) == {"table", "json", "csv", "vmaf-json", "vmaf-xml", "vmaf-csv"}
    assert complete(path, "score cl") == ["clip.mp4"]
    assert [name.rstrip("/") for name in complete(path, "score --engines ''")] == ["folder"]


def test_zsh_reads_it(script):
    path = script("zsh")
    assert run(path, "zsh", "-n", str(path)) == []
    assert path.read_text().startswith("#compdef diffvqa\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_command_is_described_in_a_line(script, shell):
    text = script(shell).read_text()
    if shell != "bash":  # which shows no descriptions
        assert "score a catalogue into Parquet" in text
    assert "Score a catalogue of videos on Ray Data" not in text


def test_another_shell_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--print-completion", "tcl"])
    assert ended.value.code == 2 and "bash" in capsys.readouterr().err


def test_the_library_is_imported_when_it_is_asked_for():
    program = "import sys; from diffvqa_rt import cli; cli.main(['info']); print('shtab' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
