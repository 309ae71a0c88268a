"""The commands of the shell blocks of README and docs/, in the order in which a reader meets them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class ShellCommand:
    """A command: its page, its line's text, its words, the file that it reads and the one that it writes by < and >."""

    page: str
    text: str
    words: tuple[str, ...]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    @property
    def program(self) -> str:
        return self.words[0].removeprefix(".venv/bin/")

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def pages() -> list[Path]:
    """README and the pages of docs/ in the order of the site's navigation, and then CONTRIBUTING."""

    def names(item: Any) -> Iterator[str]:
        if isinstance(item, str):
            yield item
        else:
            for inner in item if isinstance(item, list) else item.values():
                yield from names(inner)

    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    own = [ROOT / "docs" / name for name in names(navigation) if (ROOT / "docs" / name).exists()]
    return [ROOT / "README.md", *own, ROOT / "CONTRIBUTING.md"]


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


def commands(page: Path) -> list[ShellCommand]:
    """The commands of a page's shell blocks; those of one line that && or ; joins are several."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    name = str(page.relative_to(ROOT))
    return [command for line in lines for command in _commands_of(name, line)]


def _commands_of(page: str, line: str) -> Iterator[ShellCommand]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    files: dict[str, list[str]] = {"<": [], ">": []}
    rest = iter([*lexer, ";"])
    for word in rest:
        if word in (";", "&&", "|"):
            if words:
                yield ShellCommand(page, line, tuple(words), tuple(files["<"]), tuple(files[">"]))
            words, files = [], {"<": [], ">": []}
        elif word in files:
            files[word].append(next(rest))
        else:
            words.append(word)
