"""The WordPiece tokenizer of bert-base-uncased in plain Python (SPEC §5).

    WordPiece.read(Path("vocab.txt"), sha256).encode("a red ball", 35)

It gives the numbers that transformers' `BertTokenizer` gives, but for the names of special tokens: "[SEP]" in a prompt
is plain text here, since prompts come from outside. The time grows linearly with a prompt.
"""

import functools
import hashlib
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.errors import EngineMismatchError, InputError

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL_TOKENS = (PAD, UNKNOWN, START, END, "[MASK]")

_INSIDE = "##"  # begins a piece that is not the first of its word
_MOST_WORD_CHARACTERS = 100
_CONTROLS_THAT_ARE_SPACE = "\t\n\r"
# Controls, formats, surrogates, private use. Not what is unassigned: a new emoji would be dropped by one version of
# Python and be [UNK] by the next.
_DROPPED = ("Cc", "Cf", "Cs", "Co")
# Unihan's blocks as BERT lists them.
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tokens:
    """A prompt as a text encoder takes it.

    Attributes:
        ids: [length] int64: [CLS], the prompt, [SEP], padding.
        mask: [length] int64: 1 at a token, 0 at padding.
        count: the tokens before truncation, [CLS] and [SEP] included.
    """

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    count: int

    @property
    def is_truncated(self) -> bool:
        """True where the end of the prompt is not among the tokens."""
        return self.count > len(self.ids)


class WordPiece:
    """A vocabulary, and the prompts that it spells."""

    def __init__(self, pieces: Sequence[str]) -> None:
        """Keeps a vocabulary, in which a piece's number is its place.

        Raises:
            ValueError: a special token is missing, or a piece is there twice.
        """
        self._numbers = {piece: number for number, piece in enumerate(pieces)}
        if len(self._numbers) < len(pieces):
            doubled = next(piece for number, piece in enumerate(pieces) if self._numbers[piece] != number)
            raise ValueError(f"the vocabulary has {doubled!r} twice; expected each piece once")
        if missing := [token for token in (PAD, UNKNOWN, START, END) if token not in self._numbers]:
            raise ValueError(f"the vocabulary has no {', '.join(missing)}; expected BERT's special tokens")
        self._longest = max(map(len, self._numbers))

    @classmethod
    def read(cls, path: Path, sha256: str) -> "WordPiece":
        """Reads a `vocab.txt`, one piece a line.

        Raises:
            EngineMismatchError: the file cannot be read, or is not the one of that SHA-256: another vocabulary gives
                other numbers, and a network scores these as gladly.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise EngineMismatchError(
                f"{path} cannot be read ({error.strerror}); it is the vocabulary that prompts are spelled with"
            ) from error
        if (found := hashlib.sha256(content).hexdigest()) != sha256:
            raise EngineMismatchError(
                f"{path} has SHA-256 {found}, and the network's vocabulary has {sha256}; give the vocab.txt that the "
                "network was trained with"
            )
        return cls(content.decode().removesuffix("\n").split("\n"))

    def encode(self, prompt: str, length: int) -> Tokens:
        """The prompt between [CLS] and [SEP], cut or padded to `length` tokens.

        Raises:
            InputError: the prompt has nothing but white space and control characters.
        """
        words = _words(prompt)
        if not words:
            raise InputError(f"prompt is blank ({prompt[:20]!r}); leave it out for a score without a prompt")
        spelled = {word: self._spell(word) for word in dict.fromkeys(words)}
        numbers = [number for word in words for number in spelled[word]]
        used = [self._numbers[START], *numbers[: length - 2], self._numbers[END]]
        padding = length - len(used)
        return Tokens(
            ids=np.array(used + [self._numbers[PAD]] * padding, np.int64),
            mask=np.array([1] * len(used) + [0] * padding, np.int64),
            count=len(numbers) + 2,
        )

    def _spell(self, word: str) -> list[int]:
        """The numbers of a word's pieces, each the longest that fits, from left to right; [UNK] where none fits."""
        unknown = [self._numbers[UNKNOWN]]
        if len(word) > _MOST_WORD_CHARACTERS:
            return unknown
        numbers: list[int] = []
        start = 0
        while start < len(word):
            inside = _INSIDE if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                if (number := self._numbers.get(inside + word[start:end])) is not None:
                    break
            else:
                return unknown
            numbers.append(number)
            start = end
        return numbers


def _words(text: str) -> list[str]:
    """The words of a text, punctuation and CJK characters as words of their own."""
    return text.translate({ord(character): _cleaned(character) for character in set(text)}).split()


@functools.lru_cache(maxsize=1 << 12)
def _cleaned(character: str) -> str:
    """A character as vocabularies have it: without accents, lower case, spaces around what is a word of its own.

    By characters and not by texts: the canonical order of marks is no matter where most marks go, and putting a long
    run of them in order takes quadratic time.
    """
    category = unicodedata.category(character)
    if category[0] == "Z" or character in _CONTROLS_THAT_ARE_SPACE:
        return " "
    if category in _DROPPED or character == "\N{REPLACEMENT CHARACTER}":
        return ""
    parts = [part for part in unicodedata.normalize("NFD", character) if unicodedata.category(part) != "Mn"]
    cleaned = "".join(f" {part} " if _is_punctuation(part) else part.lower() for part in parts)
    return f" {cleaned} " if any(first <= ord(character) <= last for first, last in _CJK) else cleaned


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character)[0] == "P"
