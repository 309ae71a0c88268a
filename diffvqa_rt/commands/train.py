"""`diffvqa train`: the head on opinions, from features that are extracted once."""

import argparse
import csv
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from diffvqa_rt.arguments import add_engine_arguments, whole_number
from diffvqa_rt.errors import TrainingError
from diffvqa_rt.evaluation.data_sets import DATA_SETS, read_table
from diffvqa_rt.evaluation.protocols import SPLITS, published_splits, random_splits
from diffvqa_rt.metrics.diffvqa.config import TemporalBlock
from diffvqa_rt.training.arguments import (
    add_fit_arguments,
    fit_config,
    item_bar,
    open_accelerator,
    refuse,
    require_packages,
    step_bar,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
    from diffvqa_rt.models.diffvqa.network import DiffVQA
    from diffvqa_rt.synthetic.labelled import LabelledVideo

SYNTHETIC = "synthetic"


def add_train_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    names = ", ".join(DATA_SETS)
    command = commands.add_parser(
        "train",
        help="train the head on opinions",
        description="Train the head by L1 on a data set's opinions; VAE, UNet and Controller stay frozen, so their "
        "features are extracted once and kept. A run that was stopped goes on at its last checkpoint when started "
        "again, and ends with the same weights. `accelerate launch -m diffvqa_rt.cli train …` and torchrun use several "
        "GPUs.",
        epilog="DIR gets weights.safetensors (for build_engines.py --weights), scores.csv (what it gives the videos "
        "that were held out, for `diffvqa evaluate --scores`), checkpoint.safetensors and tensorboard/.",
    )
    command.add_argument(
        "data",
        type=_parse_data,
        metavar="NAME=PATH",
        help=f"a data set ({names}; `diffvqa evaluate --help` has their layouts), or {SYNTHETIC}=DIR, a set that "
        "python -m diffvqa_rt.synthetic made",
    )
    command.add_argument(
        "--weights",
        type=Path,
        required=True,
        metavar="FILE",
        help="what to start from: adapted.safetensors of `diffvqa adapt`, whose head is a new one, or trained weights "
        "of ours, whose head goes on from what it has learned",
    )
    command.add_argument(
        "--new-head", action="store_true", help="begin with a random head, whatever the weights' own has learned"
    )
    command.add_argument(
        "--split",
        type=_parse_split,
        default="published",
        metavar="SPLIT",
        help=f"what to train on: published (the published training split), 1 … {SPLITS} (that one of the random 8:2 "
        "splits), or all (default: %(default)s)",
    )
    command.add_argument(
        "--split-seed", type=whole_number(0), default=0, metavar="N", help="of the random splits (default: %(default)s)"
    )
    command.add_argument(
        "--epochs", type=whole_number(1), default=50, metavar="N", help="over the videos (default: %(default)s)"
    )
    command.add_argument(
        "--crops",
        type=whole_number(1),
        default=1,
        metavar="M",
        help="crop positions to extract for each video; each step draws one (default: %(default)s)",
    )
    command.add_argument(
        "--tcab",
        choices=get_args(TemporalBlock),
        help="which views have the Mamba block, the variants of the paper's Table 6 (default: as the weights have it)",
    )
    command.add_argument(
        "--videomamba",
        type=Path,
        metavar="FILE",
        help="a VideoMamba checkpoint, of videos or of images, that a new head's Mamba blocks start from",
    )
    command.add_argument(
        "--cache",
        type=Path,
        default=Path("build/features"),
        metavar="DIR",
        help="where features are kept, for every run on the same extractor (default: %(default)s)",
    )
    command.add_argument(
        "--cache-gigabytes",
        type=whole_number(1),
        default=100,
        metavar="GB",
        help="the most that DIR may take; a run that needs more says so before it starts (default: %(default)s)",
    )
    add_engine_arguments(command, None, "none: torch extracts; engines of the same weights do it faster")
    add_fit_arguments(command, learning_rate=1e-5, weight_decay=1e-6, batch=2)


@dataclass(frozen=True, slots=True)
class _Data:
    """What a run learns from, and what is held out."""

    train: "Sequence[LabelledVideo]"
    held_out: "Sequence[LabelledVideo]"
    score_range: tuple[float, float]


def run_train(arguments: argparse.Namespace) -> int:
    """The exit status: 0 done, 2 where arguments do not fit together."""
    require_packages()
    from diffvqa_rt.files import make_folder, write_whole
    from diffvqa_rt.models.diffvqa.checkpoints import save_weights
    from diffvqa_rt.models.weights import weights_sha256
    from diffvqa_rt.synthetic.labelled import videos_digest
    from diffvqa_rt.training.diffvqa.extraction import EngineExtractor, Extractor, TorchExtractor, fill_cache
    from diffvqa_rt.training.diffvqa.features import CropOfVideo, FeatureCache
    from diffvqa_rt.training.diffvqa.head import HeadBatches, HeadObjective, agreement_scalars, predict_videos
    from diffvqa_rt.training.diffvqa.start import network_to_start_from
    from diffvqa_rt.training.loop import fit, refuse_another_run

    data = _read(arguments)
    try:
        network, is_new_head = _network(arguments, data.score_range)
    except ValueError as error:
        return refuse(error)
    make_folder(arguments.out)
    accelerator = open_accelerator(arguments)
    extract: Extractor
    if arguments.engines is None:
        extract = TorchExtractor(network, accelerator)
    else:
        start, _ = network_to_start_from(arguments.weights)
        extract = EngineExtractor(arguments.engines, start, arguments.backend, arguments.threads)
    cache = FeatureCache(
        arguments.cache,
        network,
        precision=extract.precision,
        runtime=extract.runtime,
        max_bytes=arguments.cache_gigabytes * 10**9,
    )
    try:
        batches = HeadBatches(
            data.train,
            cache,
            batch=arguments.batch,
            crops=arguments.crops,
            processes=accelerator.num_processes,
            seed=arguments.seed,
        )
        config = fit_config(arguments, arguments.epochs * batches.steps_per_epoch)
    except ValueError as error:
        return refuse(error)
    learned_from = [CropOfVideo(video.path, crop) for video in data.train for crop in range(arguments.crops)]
    describes = {
        "network": network.config.as_dict(),
        "start": {
            "new_head": is_new_head,
            "videomamba": arguments.videomamba and arguments.videomamba.name,
            "weights": weights_sha256(network),
        },
        "data": {
            "split": arguments.split,
            "split_seed": arguments.split_seed,
            "epochs": arguments.epochs,
            "batch": arguments.batch,
            "crops": arguments.crops,
            "videos": videos_digest(data.train),
        },
        "features": {
            "precision": extract.precision,
            "runtime": extract.runtime,
            "entries": cache.digest(learned_from),
        },
    }
    objective = HeadObjective(network)
    refuse_another_run(objective, config, arguments.out, describes, accelerator)
    entries = learned_from + [CropOfVideo(video.path) for video in data.held_out]
    if accelerator.is_main_process:
        head = "a random one" if is_new_head else f"that of {arguments.weights}, which goes on learning"
        print(f"head to start from: {head}", file=sys.stderr)
        print(f"features of this run: {cache.bytes_of(entries) / 1e9:.1f} GB in {arguments.cache}", file=sys.stderr)
    with item_bar("features") as show_videos:
        fill_cache(cache, entries, extract, accelerator, workers=arguments.workers, on_progress=show_videos)
    network.extractor.cpu()

    def validate() -> dict[str, float]:
        return agreement_scalars(predict_videos(network, data.held_out, cache), data.held_out)

    with step_bar("train", config.steps) as show:
        fit(
            objective,
            batches,
            config,
            arguments.out,
            describes=describes,
            accelerator=accelerator,
            on_step=show,
            validate=validate if data.held_out else None,
            validate_steps=batches.steps_per_epoch,
        )
    if accelerator.is_main_process:
        scores = predict_videos(network, data.held_out, cache)
        if data.held_out:
            write_whole(arguments.out / "scores.csv", lambda part: _write_scores(part, data.held_out, scores))
        path = arguments.out / "weights.safetensors"
        write_whole(path, lambda part: save_weights(network.cpu(), part, is_trained=True))
        labelled = {video.name for video in data.held_out if video.label is not None}
        for name, value in agreement_scalars(scores, data.held_out).items():
            print(f"held out, {len(labelled)} videos: {name} {value:.4f}", file=sys.stderr)
        print(path)
    return 0


def _read(arguments: argparse.Namespace) -> _Data:
    from diffvqa_rt.synthetic.labelled import videos_from_set
    from diffvqa_rt.training.diffvqa.head import videos_from_rows

    name, path = arguments.data
    if name == SYNTHETIC:
        if arguments.split not in ("published", "all"):
            raise TrainingError(f"a synthetic set is split by content already; --split {arguments.split} is for others")
        train, held_out = (videos_from_set(path, split) for split in ("train", "validation"))
        if arguments.split == "all":
            train, held_out = [*train, *held_out], []
        return _Data(train, held_out, (0.0, 100.0))
    table = read_table(name, path)
    if table.mos_range[0] == table.mos_range[1]:
        raise TrainingError(f"{table.title}'s opinions are all {table.mos_range[0]:g}; there is nothing to learn")
    if arguments.split == "all":
        return _Data(videos_from_rows(table.rows), (), table.mos_range)
    if arguments.split == "published":
        if not table.select("train"):
            raise TrainingError(f"{table.title} has no published training split; choose --split 1 … {SPLITS}, or all")
        splits = published_splits(table)
        held_out_rows = [row for split in splits for row in split.test]
        split = splits[0]
    else:
        split = random_splits(table, seed=arguments.split_seed)[int(arguments.split) - 1]
        held_out_rows = list(split.test)
    return _Data(videos_from_rows(split.train), videos_from_rows(held_out_rows), table.mos_range)


def _network(arguments: argparse.Namespace, score_range: tuple[float, float]) -> "tuple[DiffVQA, bool]":
    """The network of the weights, for this range of scores, and whether its head is a new one.

    Raises:
        ValueError: the weights cannot be read, or their head has learned and is not the one that is asked for.
    """
    from diffvqa_rt.models.diffvqa.checkpoints import load_videomamba, network_from_state
    from diffvqa_rt.models.diffvqa.tcab import TemporalCoherenceBlock
    from diffvqa_rt.training.diffvqa.start import network_to_start_from, with_new_head

    network, is_trained = network_to_start_from(arguments.weights)
    head = network.config.head
    tcab = dataclasses.replace(head.tcab, views=arguments.tcab or head.tcab.views)
    config = dataclasses.replace(network.config, score_range=score_range, head=dataclasses.replace(head, tcab=tcab))
    if is_trained and not arguments.new_head:
        if tcab != head.tcab:
            raise ValueError(
                f"the trained head of {arguments.weights} has {_weights_of_head(network.config)} (--tcab "
                f"{head.tcab.views}), and one of --tcab {tcab.views} has {_weights_of_head(config)}; give --new-head "
                "to begin with a random one, or leave --tcab out to go on from the trained one"
            )
        if arguments.videomamba:
            raise ValueError(
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
            raise ValueError(f"--videomamba is for Mamba blocks; with --tcab {tcab.views} there are none")
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


def _write_scores(path: Path, videos: "Sequence[LabelledVideo]", scores: "NDArray[np.float64]") -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "score"])
        # A pristine clip is in every ladder of its scene.
        writer.writerows(dict(zip((video.name for video in videos), scores, strict=True)).items())


def _parse_data(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    names = (*DATA_SETS, SYNTHETIC)
    if not (separator and path) or name not in names:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH with a NAME of {', '.join(names)}")
    return name, Path(path)


def _parse_split(text: str) -> str:
    if text not in ("published", "all") and text not in map(str, range(1, SPLITS + 1)):
        raise argparse.ArgumentTypeError(f"{text!r} is not published, all, or a number from 1 to {SPLITS}")
    return text
