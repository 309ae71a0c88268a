"""What a run learns from and what it is measured on: a data set's opinions or a synthetic set's labels, split."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from diffvqa_rt.arguments import whole_number
from diffvqa_rt.errors import TrainingError
from diffvqa_rt.evaluation.data_sets import DATA_SETS, read_table
from diffvqa_rt.evaluation.mos_table import MosRow
from diffvqa_rt.evaluation.protocols import SPLITS, published_splits, random_splits
from diffvqa_rt.synthetic.clip_table import check_files, read_manifest
from diffvqa_rt.synthetic.labelled import LabelledVideo, videos_from_set

SYNTHETIC = "synthetic"
BY_ROW = ("image-", "video-")
"""Before the number of a random split: of the splits row by row (SPEC-diffv2iqa, D32)."""
LEAST_FOR_AGREEMENT = 3
"""Opinions that a correlation is made of, at least."""


def add_data_arguments(command: argparse.ArgumentParser) -> None:
    """Adds `data`, `--split` and `--split-seed`, which `read_training_data` reads."""
    command.add_argument(
        "data",
        type=parse_data,
        metavar="NAME=PATH",
        help=f"a data set ({', '.join(DATA_SETS)}; `diffvqa evaluate --help` has their layouts), or {SYNTHETIC}=DIR, a "
        "set that python -m diffvqa_rt.synthetic made with --keep-training-files",
    )
    command.add_argument(
        "--split",
        type=parse_split,
        default="published",
        metavar="SPLIT",
        help=f"what to train on: published (the published training split), 1 … {SPLITS} (that one of the random 8:2 "
        f"splits), image-1 … image-{SPLITS} or video-1 … video-{SPLITS} (that one of the splits by image or by video, "
        "where versions of one content are on both sides), or all (default: %(default)s)",
    )
    command.add_argument(
        "--split-seed", type=whole_number(0), default=0, metavar="N", help="of the random splits (default: %(default)s)"
    )


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Videos that a run learns from, videos that are held out, and the range of their opinions.

    `validation` is held out too, to choose an epoch by.
    """

    train: Sequence[LabelledVideo]
    held_out: Sequence[LabelledVideo]
    score_range: tuple[float, float]
    validation: Sequence[LabelledVideo] = ()


def add_validation_argument(command: argparse.ArgumentParser) -> None:
    """Adds `--validation-percent`, for `with_validation`."""
    command.add_argument(
        "--validation-percent",
        type=whole_number(0, 50),
        default=0,
        metavar="P",
        help="of the data set's videos, taken from those to learn from to choose the best epoch by; with --split 1 … "
        f"{SPLITS}, 10 gives 7:1:2 and 20 gives 6:2:2 (default: %(default)s, the last epoch is kept)",
    )


def parse_data(text: str) -> tuple[str, Path]:
    """The data set's name and its place, of `NAME=PATH`."""
    name, separator, path = text.partition("=")
    names = (*DATA_SETS, SYNTHETIC)
    if not (separator and path) or name not in names:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH with a NAME of {', '.join(names)}")
    return name, Path(path)


def parse_split(text: str) -> str:
    """The text, where it names a split."""
    numbered = {f"{by}{number}" for by in ("", *BY_ROW) for number in range(1, SPLITS + 1)}
    if text not in ("published", "all", *numbered):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not published, all, or a number from 1 to {SPLITS}, alone or after image- or video-"
        )
    return text


def read_training_data(arguments: argparse.Namespace) -> TrainingData:
    """The videos of the arguments' data set and split. Raises DiffVQAError where there is nothing to learn."""
    name, path = arguments.data
    if name == SYNTHETIC:
        if arguments.split not in ("published", "all"):
            raise TrainingError(f"a synthetic set is split by content already; --split {arguments.split} is for others")
        train, held_out = (videos_from_set(path, split) for split in ("train", "validation"))
        check_files(path, read_manifest(path))
        if arguments.split == "all":
            train, held_out = [*train, *held_out], []
        return TrainingData(train, held_out, (0.0, 100.0))
    table = read_table(name, path)
    if table.short_side is not None:
        raise TrainingError(
            f"{table.title}'s images are scored with a short side of {table.short_side} pixels, and training takes "
            "images as they are; shrink them, and give them as csv=FILE"
        )
    if table.mos_range[0] == table.mos_range[1]:
        raise TrainingError(f"{table.title}'s opinions are all {table.mos_range[0]:g}; there is nothing to learn")
    if arguments.split == "all":
        return TrainingData(videos_from_rows(table.rows), (), table.mos_range)
    if arguments.split == "published":
        if not table.select("train"):
            raise TrainingError(f"{table.title} has no published training split; choose --split 1 … {SPLITS}, or all")
        splits = published_splits(table)
        held_out_rows = [row for split in splits for row in split.test]
        split = splits[0]
    else:
        by_row = arguments.split.startswith(BY_ROW)
        number = int(arguments.split.rpartition("-")[2])
        split = random_splits(table, by_row=by_row, seed=arguments.split_seed)[number - 1]
        held_out_rows = list(split.test)
        if by_row:
            # Then the validation's videos are chosen row by row too.
            train = [replace(video, content=None) for video in videos_from_rows(split.train)]
            return TrainingData(train, videos_from_rows(held_out_rows), table.mos_range)
    return TrainingData(videos_from_rows(split.train), videos_from_rows(held_out_rows), table.mos_range)


def with_validation(data: TrainingData, percent: int, seed: int) -> TrainingData:
    """The data with so much of it moved from `train` to `validation`, contents whole, in an order that a hash decides.

    Raises:
        TrainingError: nothing is left to learn from, or too little to choose an epoch by.
    """
    if not percent:
        return data
    wanted = round(percent / 100 * (len(data.train) + len(data.held_out)))
    by_content: dict[str, list[LabelledVideo]] = {}
    for video in data.train:
        by_content.setdefault(video.content or video.name, []).append(video)
    order = sorted(by_content, key=lambda content: sha256(f"{seed}/validation/{content}".encode()).digest())
    taken: set[str] = set()
    count = 0
    for content in order:
        if count >= wanted:
            break
        taken.add(content)
        count += len(by_content[content])
    train, validation = (
        [video for video in data.train if ((video.content or video.name) in taken) is is_taken]
        for is_taken in (False, True)
    )
    labels = {video.name for video in validation if video.label is not None}
    if not train or len(labels) < LEAST_FOR_AGREEMENT:
        raise TrainingError(
            f"{percent} % of {len(data.train)} videos of {len(by_content)} contents leave {len(train)} to learn from "
            f"and {len(labels)} opinions to choose an epoch by; expected some, and {LEAST_FOR_AGREEMENT} or more"
        )
    return replace(data, train=train, validation=validation)


def videos_from_rows(rows: Sequence[MosRow]) -> list[LabelledVideo]:
    return [
        LabelledVideo(name=row.name, path=row.video, label=row.mos, content=row.content, prompt=row.prompt)
        for row in rows
    ]
