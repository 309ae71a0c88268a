"""The videos that a model is tested on (SPEC §5): random splits, published splits, or all of a data set."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from diffvqa_rt.errors import EvaluationError
from diffvqa_rt.evaluation.data_sets import DATA_SETS, ProtocolName
from diffvqa_rt.evaluation.mos_table import MosRow, MosTable

SPLITS = 10
TEST_SHARE = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A division of a data set: no video is on two sides, nor a content, unless it was divided row by row."""

    name: str
    train: tuple[MosRow, ...]
    test: tuple[MosRow, ...]


def default_protocols(table: MosTable, trained_on: str | None) -> tuple[ProtocolName, ...]:
    """The protocols of SPEC §5, on this data set, for a model that was trained on `trained_on` (None where not known).

    On another data set than its own a model has seen nothing, so that all of it is the test; but where test splits are
    published, their numbers are what others report. Where rows share contents, two kinds of random splits are usual
    (SPEC-diffv2iqa, D32; SPEC-aigc-vqa, 9).
    """
    if any(is_test_split(row.split) for row in table.rows):
        return ("published",)
    if trained_on not in (None, table.name):
        return ("whole",)
    protocol = DATA_SETS[table.name].protocol if table.name in DATA_SETS else "whole"
    if protocol == "splits" and any(row.content for row in table.rows):
        return ("splits", "splits-by-image" if table.kind == "image" else "splits-by-video")
    return (protocol,)


def is_by_row(protocol: ProtocolName) -> bool:
    """True for random splits that put rows of one content on both sides."""
    return protocol in ("splits-by-image", "splits-by-video")


def random_splits(
    table: MosTable,
    *,
    splits: int = SPLITS,
    test_share: float = TEST_SHARE,
    by_row: bool = False,
    seed: int = 0,
) -> tuple[Split, ...]:
    """Divisions of a data set into train and test, the same wherever and whenever they are made.

    For split number i of 1 … `splits`, the contents are put in the order of SHA-256(`seed/i/content`), where the
    content of a video without one is its name, and taken for the test until it holds `test_share` of the videos. A hash
    and not a generator, so that neither the table's order nor NumPy's version changes who trains on what.

    8:2, 7:1:2 and 6:2:2 are the same splits: their validation is taken from `train`.

    Args:
        by_row: take each row as a content of its own, so that versions of one are trained and tested on, and the same
            share of each generator's rows. That raises a model's numbers; much published code does it.

    Raises:
        ValueError: `splits` or `test_share` is out of range.
        EvaluationError: the table is too small for both sides to hold a video.
    """
    if splits < 1:
        raise ValueError(f"splits is {splits}; expected at least 1")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share is {test_share}; expected a number between 0 and 1")
    groups: dict[str | None, list[MosRow]] = {}
    for row in table.rows:
        groups.setdefault(row.generator if by_row else None, []).append(row)
    result = []
    for number in range(1, splits + 1):
        test: set[str] = set()
        for rows in groups.values():
            test |= _test_side(rows, test_share, by_row, f"{seed}/{number}")
        split = _divide(f"split {number}", table.rows, test)
        if not split.train or not split.test:
            contents = len({row.name if by_row else row.content or row.name for row in table.rows})
            raise EvaluationError(
                f"{table.title}'s {len(table.rows)} {table.kind}s of {contents} contents cannot be split into train "
                "and test"
            )
        result.append(split)
    return tuple(result)


def _test_side(rows: Iterable[MosRow], test_share: float, by_row: bool, key: str) -> set[str]:
    """The names of whole contents, in the order of their hashes with `key`, that are the share of the rows."""
    by_content: dict[str, list[str]] = {}
    for row in rows:
        by_content.setdefault(row.name if by_row else row.content or row.name, []).append(row.name)
    wanted = round(test_share * sum(map(len, by_content.values())))
    test: set[str] = set()
    for content in sorted(by_content, key=lambda content: _hash(f"{key}/{content}")):
        if len(test) >= wanted:
            break
        test.update(by_content[content])
    return test


def published_splits(table: MosTable) -> tuple[Split, ...]:
    """The published test splits in the table's order, each with the published training split.

    Where opinions of the test split are not in the table, the validation split is the test.

    Raises:
        EvaluationError: the table names no split to test on.
    """
    names = list(dict.fromkeys(row.split for row in table.rows if is_test_split(row.split)))
    if not names and any(row.split == "validation" for row in table.rows):
        names = ["validation"]
    if not names:
        raise EvaluationError(f"{table.title} has no published split to test on")
    return tuple(Split(name=str(name), train=table.select("train"), test=table.select(str(name))) for name in names)


def is_test_split(name: str | None) -> bool:
    """True where a published split is there to be tested on."""
    return name not in (None, "train", "validation")


def _divide(name: str, rows: Sequence[MosRow], test: set[str]) -> Split:
    return Split(
        name=name,
        train=tuple(row for row in rows if row.name not in test),
        test=tuple(row for row in rows if row.name in test),
    )


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
