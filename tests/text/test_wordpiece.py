"""Prompts as tokens: the numbers of transformers' tokenizer, and what a hostile prompt does."""

import hashlib
import os
import random
import string
import time
from pathlib import Path

import numpy as np
import pytest

from diffvqa_rt.errors import EngineMismatchError, InputError
from diffvqa_rt.text.wordpiece import SPECIAL_TOKENS, WordPiece

LETTERS = string.ascii_lowercase
ALPHABETS = (
    string.printable,
    string.ascii_letters + "      ",
    "éÉèüÜñÑçÇåÅøØßþÐłŁžŽİıǅﬁﬀ ",
    "Ạ̈ậấẫ e\u0301e\u0323\u0301 \u0300\u036f",
    "中文字符漢字㐀かなカナ한국어、。「」\uf900\ufa1e\U00020000\U0002a700\U0002b740\U0002f800 ",
    "АБВгдёЙΣσςΩάאבגعربيहिन्दी ",
    "😀👩\u200d👩\u200d👧🏽❤️🇩🇪 ",
    "\0\x01\x1b\x7f\x85\xad\u200b\u200e\u2028\u2029\ufeff\ufffd\t\n\r\x0b\x0c\xa0\u3000",
    "—–…“”‘’«»¿¡§¶†‡€£¥©®™°±×÷½²µ¦$+<=>^`|~",
)
WORDS = ("red", "Ball", "moving", "LEFT", "ing", "background", "z" * 100, "z" * 101, "red" * 34, "é" * 100)


def invented_vocabulary(seed: int) -> list[str]:
    """Pieces of words such as the texts below have, and single characters of all alphabets but some."""
    source = random.Random(seed)
    pieces = dict.fromkeys(SPECIAL_TOKENS)
    for _ in range(1500):
        piece = "".join(source.choices(LETTERS[:9], k=source.randint(1, 4)))
        pieces[source.choice(("", "##")) + piece] = None
    for word in (word.lower() for word in WORDS[:6]):
        pieces |= dict.fromkeys([word, word[:3], f"##{word[2:]}"])
    for character in "".join(ALPHABETS).lower():
        if not character.isspace() and source.random() < 0.8:
            pieces |= dict.fromkeys([character, f"##{character}"])
    return list(pieces)


def texts(seed: int, count: int):
    source = random.Random(seed)
    for number in range(count):
        parts = []
        for _ in range(source.randint(1, 8)):
            kind = source.random()
            if kind < 0.25:
                parts.append(source.choice(WORDS))
            elif kind < 0.5:
                parts.append("".join(source.choices(LETTERS[:9], k=source.randint(1, 12))))
            else:
                alphabet = ALPHABETS[number % len(ALPHABETS)] if kind < 0.8 else source.choice(ALPHABETS)
                parts.append("".join(source.choices(alphabet, k=source.randint(1, 12))))
        yield source.choice(("", " ")).join(parts)


def check_equal_to_transformers(pieces: list[str], count: int, seed: int) -> None:
    from transformers import BertTokenizer

    theirs = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})
    ours = WordPiece(pieces)
    checked = 0
    for text in texts(seed, count):
        expected = theirs(text)["input_ids"]
        try:
            tokens = ours.encode(text, 512)
        except InputError:
            assert len(expected) == 2, repr(text)
            continue
        assert tokens.count == len(expected), repr(text)
        assert tokens.ids[: tokens.count].tolist() == expected[:512], repr(text)
        checked += 1
    assert checked > 0.9 * count


def small() -> WordPiece:
    return WordPiece([*SPECIAL_TOKENS, "red", "re", "##d", "##ball", "ball", "!", "a", "##a", "[", "]", "sep", "中"])


def pieces_of(prompt: str) -> list[str]:
    """The prompt's pieces between [CLS] and [SEP]."""
    tokenizer = small()
    spelled = {number: piece for piece, number in tokenizer._numbers.items()}
    tokens = tokenizer.encode(prompt, 64)
    return [spelled[number] for number in tokens.ids[1 : tokens.count - 1].tolist()]


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_transformers_on_texts_of_every_alphabet(seed):
    check_equal_to_transformers(invented_vocabulary(seed), 2000, seed)


@pytest.mark.skipif("DIFFVQA_BERT_VOCABULARY" not in os.environ, reason="DIFFVQA_BERT_VOCABULARY names no vocab.txt")
def test_equals_transformers_with_the_vocabulary_of_bert():
    path = Path(os.environ["DIFFVQA_BERT_VOCABULARY"])
    check_equal_to_transformers(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), 20_000, 2)


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("Red BALL", ["red", "ball"]),
        ("redball!", ["red", "##ball", "!"]),
        ("rêd\u200b\x00 ball\u0301", ["red", "ball"]),
        ("red中ball", ["red", "中", "ball"]),
        ("green red", ["[UNK]", "red"]),
        ("redgreen", ["[UNK]"]),
        ("a" * 100, ["a"] + ["##a"] * 99),
        ("a" * 101, ["[UNK]"]),
        ("😀 red", ["[UNK]", "red"]),
        # Plain text, and not the token that ends a prompt.
        ("[SEP]", ["[", "sep", "]"]),
    ],
)
def test_a_prompt_is_spelled_by_the_longest_pieces(prompt, pieces):
    assert pieces_of(prompt)[:62] == pieces[:62]


def test_a_prompt_is_padded_with_a_mask():
    tokens = small().encode("red ball", 6)
    assert tokens.ids.tolist() == [2, 5, 9, 3, 0, 0] and tokens.mask.tolist() == [1, 1, 1, 1, 0, 0]
    assert tokens.ids.dtype == tokens.mask.dtype == np.int64
    assert tokens.count == 4 and not tokens.is_truncated


def test_a_long_prompt_is_cut_before_its_sep_and_says_so():
    whole, cut = (small().encode("red " * words, 6) for words in (4, 5))
    assert whole.ids.tolist() == cut.ids.tolist() == [2, 5, 5, 5, 5, 3]
    assert (whole.count, whole.is_truncated) == (6, False) and (cut.count, cut.is_truncated) == (7, True)


@pytest.mark.parametrize("prompt", ["", "  \t\n", "\x00\x1b\u200b", "\u0301\u3000"])
def test_a_blank_prompt_is_to_be_left_out(prompt):
    with pytest.raises(InputError, match="prompt is blank .*; leave it out"):
        small().encode(prompt, 6)


@pytest.mark.parametrize(
    "prompt",
    [
        "a" * 2**20,
        ("b" * 100 + " ") * 2**13,
        "!" * 2**20,
        # Marks in the wrong order, which Unicode's normal form sorts in quadratic time.
        "a" + "\u0301" * 2**19 + "\u0323" * 2**19,
        "red ball! " * 2**17,
    ],
    ids=["one word", "words without pieces", "punctuation", "marks", "words"],
)
def test_a_megabyte_takes_no_more_than_its_share(prompt):
    started = time.process_time()
    assert small().encode(prompt, 35).ids.shape == (35,)
    assert time.process_time() - started < 5


def test_a_vocabulary_is_read_by_its_hash(tmp_path):
    path = tmp_path / "vocab.txt"
    content = "\n".join([*SPECIAL_TOKENS, "red"]).encode() + b"\n"
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    assert WordPiece.read(path, sha256).encode("red", 4).ids.tolist() == [2, 5, 3, 0]
    path.write_bytes(content + b"ball\n")
    with pytest.raises(EngineMismatchError, match=f"vocab.txt has SHA-256 [0-9a-f]+, and .* has {sha256}"):
        WordPiece.read(path, sha256)
    with pytest.raises(EngineMismatchError, match=r"none.txt cannot be read \(No such file"):
        WordPiece.read(tmp_path / "none.txt", sha256)


def test_a_vocabulary_needs_its_special_tokens_and_each_piece_once():
    with pytest.raises(ValueError, match=r"has no \[UNK\], \[SEP\]"):
        WordPiece(["[PAD]", "[CLS]", "red"])
    with pytest.raises(ValueError, match="has 'red' twice"):
        WordPiece([*SPECIAL_TOKENS, "red", "red"])
