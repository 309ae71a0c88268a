"""Inputs of `diffvqa train`: labelled videos to learn from, and the network that learning starts from."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffvqa_rt.commands.command import UsageError, checked_arguments
from diffvqa_rt.errors import TrainingError
from diffvqa_rt.evaluation.data_sets import DATA_SETS, read_table
from diffvqa_rt.evaluation.protocols import SPLITS, published_splits, random_splits

if TYPE_CHECKING:
    from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
    from diffvqa_rt.models.diffvqa.network import DiffVQA
    from diffvqa_rt.synthetic.labelled import LabelledVideo

SYNTHETIC = "synthetic"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Videos that a run learns from, videos that are held out, and the range of their opinions."""

    train: "Sequence[LabelledVideo]"
    held_out: "Sequence[LabelledVideo]"
    score_range: tuple[float, float]


def parse_data(text: str) -> tuple[str, Path]:
    """The data set's name and its place, of `NAME=PATH`."""
    name, separator, path = text.partition("=")
    names = (*DATA_SETS, SYNTHETIC)
    if not (separator and path) or name not in names:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH with a NAME of {', '.join(names)}")
    return name, Path(path)


def parse_split(text: str) -> str:
    """The text, where it names a split."""
    if text not in ("published", "all") and text not in map(str, range(1, SPLITS + 1)):
        raise argparse.ArgumentTypeError(f"{text!r} is not published, all, or a number from 1 to {SPLITS}")
    return text


def read_training_data(arguments: argparse.Namespace) -> TrainingData:
    """The videos of the arguments' data set and split. Raises TrainingError where there is nothing to learn."""
    from diffvqa_rt.synthetic.labelled import videos_from_set
    from diffvqa_rt.training.diffvqa.head import videos_from_rows

    name, path = arguments.data
    if name == SYNTHETIC:
        if arguments.split not in ("published", "all"):
            raise TrainingError(f"a synthetic set is split by content already; --split {arguments.split} is for others")
        train, held_out = (videos_from_set(path, split) for split in ("train", "validation"))
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
        split = random_splits(table, seed=arguments.split_seed)[int(arguments.split) - 1]
        held_out_rows = list(split.test)
    return TrainingData(videos_from_rows(split.train), videos_from_rows(held_out_rows), table.mos_range)


def network_to_train(arguments: argparse.Namespace, score_range: tuple[float, float]) -> "tuple[DiffVQA, bool]":
    """The network of the weights, for this range of scores, and True where its head is a new one.

    Raises:
        UsageError: the weights cannot be read, or their head has learned and is not the one that is asked for.
    """
    from diffvqa_rt.models.diffvqa.checkpoints import load_videomamba
    from diffvqa_rt.models.diffvqa.network import DiffVQA
    from diffvqa_rt.models.diffvqa.tcab import TemporalCoherenceBlock
    from diffvqa_rt.models.weights import network_from_state
    from diffvqa_rt.training.diffvqa.start import network_to_start_from, with_new_head

    with checked_arguments():
        network, is_trained = network_to_start_from(arguments.weights)
    head = network.config.head
    tcab = dataclasses.replace(head.tcab, views=arguments.tcab or head.tcab.views)
    config = dataclasses.replace(network.config, score_range=score_range, head=dataclasses.replace(head, tcab=tcab))
    if is_trained and not arguments.new_head:
        if tcab != head.tcab:
            raise UsageError(
                f"the trained head of {arguments.weights} has {_weights_of_head(network.config)} (--tcab "
                f"{head.tcab.views}), and one of --tcab {tcab.views} has {_weights_of_head(config)}; give --new-head "
                "to begin with a random one, or leave --tcab out to go on from the trained one"
            )
        if arguments.videomamba:
            raise UsageError(
                f"--videomamba would take the place of what the head of {arguments.weights} has learned; give "
                "--new-head to begin with a random one, or leave --videomamba out to go on from the trained one"
            )
        # What a head tells are shares of the range, so that another range moves no weight.
        return network_from_state(DiffVQA, config, network.state_dict(), arguments.weights), False
    network = with_new_head(network, config, arguments.seed)
    if arguments.videomamba:
        views = (network.head.semantic, network.head.distortion)
        blocks = [view.tcab for view in views if isinstance(view.tcab, TemporalCoherenceBlock)]
        if not blocks:
            raise UsageError(f"--videomamba is for Mamba blocks; with --tcab {tcab.views} there are none")
        with checked_arguments():
            for block in blocks:
                load_videomamba(block, arguments.videomamba)
    return network, True


def _weights_of_head(config: "DiffVQAConfig") -> str:
    """The size of a head, in words."""
    import torch

    from diffvqa_rt.models.diffvqa.network import Head

    with torch.device("meta"):
        head = Head(config)
    return f"{sum(parameter.numel() for parameter in head.parameters()):,} weights"
