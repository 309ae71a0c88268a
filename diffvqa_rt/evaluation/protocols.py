"""The videos that a model is tested on (SPEC §5): random splits, published splits, or all of a data set."""

import hashlib
from dataclasses import dataclass

from diffvqa_rt.errors import EvaluationError
from diffvqa_rt.evaluation.data_sets import DATA_SETS, ProtocolName
from diffvqa_rt.evaluation.mos_table import MosRow, MosTable

SPLITS = 10
TEST_SHARE = 0.2
VALIDATION_SHARES = {"8:2": 0.0, "7:1:2": 0.1, "6:2:2": 0.2}
"""The ratios of training to validation to test by their names, each with its share for validation.

All of them test on `TEST_SHARE`, and on the same videos of a split.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A division of a data set: no video is on two sides, nor a content, unless it was divided by image."""

    name: str
    train: tuple[MosRow, ...]
    validation: tuple[MosRow, ...] = ()
    test: tuple[MosRow, ...]


def default_protocols(table: MosTable, trained_on: str | None) -> tuple[ProtocolName, ...]:
    """The protocols of SPEC §5, on this data set, for a model that was trained on `trained_on` (None where not known).

    On another data set than its own a model has seen nothing, so that all of it is the test; but where test splits are
    published, their numbers are what others report. Where videos share contents, two kinds of random splits are usual
    (SPEC-diffv2iqa, D32).
    """
    if any(is_test_split(row.split) for row in table.rows):
        return ("published",)
    if trained_on not in (None, table.name):
        return ("whole",)
    protocol = DATA_SETS[table.name].protocol if table.name in DATA_SETS else "whole"
    if protocol == "splits" and any(row.content for row in table.rows):
        return ("splits", "splits-by-image")
    return (protocol,)


def random_splits(
    table: MosTable,
    *,
    splits: int = SPLITS,
    test_share: float = TEST_SHARE,
    validation_share: float = 0.0,
    by_image: bool = False,
    seed: int = 0,
) -> tuple[Split, ...]:
    """Divisions of a data set into train, validation and test, the same wherever and whenever they are made.

    For split number i of 1 … `splits`, the contents are put in the order of SHA-256(`seed/i/content`), where the
    content of a video without one is its name, and taken for the test until it holds `test_share` of the videos, then
    for the validation likewise. A hash and not a generator, so that neither the table's order nor NumPy's version
    changes who trains on what. The test side does not depend on `validation_share`.

    Args:
        validation_share: of the videos; `VALIDATION_SHARES` has the usual ones.
        by_image: take each video as a content of its own, so that versions of one are trained and tested on. That
            raises a model's numbers; much published code does it.

    Raises:
        ValueError: `splits` or a share is out of range.
        EvaluationError: the table is too small for each side to hold a video.
    """
    if splits < 1:
        raise ValueError(f"splits is {splits}; expected at least 1")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share is {test_share}; expected a number between 0 and 1")
    if not 0 <= validation_share < 1 - test_share:
        raise ValueError(
            f"validation_share is {validation_share}; expected a number from 0 to under {1 - test_share:g}"
        )
    by_content: dict[str, list[str]] = {}
    for row in table.rows:
        by_content.setdefault(row.name if by_image else row.content or row.name, []).append(row.name)
    result = []
    for number in range(1, splits + 1):
        order = iter(sorted(by_content, key=lambda content: _hash(f"{seed}/{number}/{content}")))
        sides = []
        for share in (test_share, validation_share):
            wanted = round(share * len(table.rows))
            side: set[str] = set()
            while len(side) < wanted and (content := next(order, None)) is not None:
                side.update(by_content[content])
            sides.append(side)
        test, validation = sides
        split = Split(
            name=f"split {number}",
            train=tuple(row for row in table.rows if row.name not in test | validation),
            validation=tuple(row for row in table.rows if row.name in validation),
            test=tuple(row for row in table.rows if row.name in test),
        )
        if not (split.train and split.test) or (validation_share and not split.validation):
            names = "train, validation and test" if validation_share else "train and test"
            raise EvaluationError(
                f"{table.title}'s {len(table.rows)} {table.kind}s of {len(by_content)} contents cannot be split "
                f"into {names}"
            )
        result.append(split)
    return tuple(result)


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


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
