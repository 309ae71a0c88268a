"""`diffvqa train` of AIGC-VQA: one of the three stages, on a data set's opinions and prompts (SPEC §8)."""

import argparse
import dataclasses
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffvqa_rt.arguments import checked_arguments, whole_number
from diffvqa_rt.metrics.aigc_vqa.presets import PRESETS, TINY, find_vocabulary
from diffvqa_rt.standard_output import print_results
from diffvqa_rt.training.aigc_vqa.stages import BRANCHES, STAGES, StageConfig
from diffvqa_rt.training.arguments import (
    add_fit_arguments,
    fetch_weights,
    fit_config,
    open_accelerator,
    require_packages,
    step_bar,
    unsigned_number,
)
from diffvqa_rt.training.data import add_data_arguments, read_training_data
from diffvqa_rt.training.registry import TrainingStage
from diffvqa_rt.video import DECODING_VERSION

if TYPE_CHECKING:
    from diffvqa_rt.models.aigc_vqa.network import AigcVqa


def _add_arguments(command: argparse.ArgumentParser) -> None:
    add_data_arguments(command)
    command.add_argument(
        "--stage",
        type=int,
        choices=STAGES,
        required=True,
        help="1: the technical and the aesthetic branch; 2: the alignment branch; 3: all three, and their sum",
    )
    start = command.add_mutually_exclusive_group()
    start.add_argument(
        "--preset",
        choices=PRESETS,
        default=TINY.name,
        help="the size of a network that begins with nothing learned (default: %(default)s)",
    )
    start.add_argument(
        "--weights",
        metavar="FILE",
        help="weights.safetensors of the stage before; a stage leaves branches that it does not teach as they are",
    )
    command.add_argument(
        "--checkpoints",
        type=Path,
        metavar="DIR",
        help="a folder with published checkpoints for the branches that the stage teaches, as build_engines.py takes: "
        "DOVER, or Swin and ConvNeXt; ImageReward, or BLIP (.pth, .pt or .safetensors)",
    )
    command.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="vocab.txt of bert-base-uncased, which the paper network spells prompts with",
    )
    command.add_argument(
        "--branches",
        type=_branches,
        metavar="NAME,…",
        help=f"those of {', '.join(BRANCHES)} that learn and are summed up, as in the paper's Table 2 (default: the "
        "stage's)",
    )
    command.add_argument(
        "--unfixed",
        type=whole_number(0, 100),
        metavar="P",
        help="percent of an encoder's blocks that learn, the last ones, as in Table 4 (default: "
        f"{', '.join(f'{stage.unfixed_percent} in stage {number}' for number, stage in STAGES.items())})",
    )
    command.add_argument(
        "--branch-loss-weight",
        type=unsigned_number,
        default=1.0,
        metavar="W",
        help="of the losses of single branches; 0 leaves stage 3 the sum's alone (default: %(default)s)",
    )
    command.add_argument("--no-adapter", action="store_true", help="take the adapter out, as in Table 5")
    command.add_argument(
        "--epochs", type=whole_number(1), default=50, metavar="N", help="over the videos (default: %(default)s)"
    )
    command.add_argument(
        "--warm-up-epochs",
        type=unsigned_number,
        default=2.5,
        metavar="X",
        help="in which the learning rate of the cosine schedule rises (default: %(default)s)",
    )
    add_fit_arguments(command, learning_rate=3e-5, weight_decay=0.05, batch=8, schedule="cosine")


def _branches(text: str) -> tuple[str, ...]:
    names = text.split(",")
    if unknown := set(names) - set(BRANCHES):
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))} is no branch; expected some of {', '.join(BRANCHES)}"
        )
    return tuple(branch for branch in BRANCHES if branch in names)


def _stage(arguments: argparse.Namespace) -> StageConfig:
    """The stage of the arguments. Raises ValueError where it is none."""
    stage = STAGES[arguments.stage]
    branches = arguments.branches or stage.branches
    if not set(branches) <= set(stage.branches):
        raise ValueError(
            f"--branches is {','.join(branches)}; stage {arguments.stage} teaches {' and '.join(stage.branches)}"
        )
    return dataclasses.replace(
        stage,
        branches=branches,
        unfixed_percent=stage.unfixed_percent if arguments.unfixed is None else arguments.unfixed,
        branch_loss_weight=arguments.branch_loss_weight,
        has_adapter=not arguments.no_adapter,
    )


def _run(arguments: argparse.Namespace) -> int:
    require_packages()
    fetch_weights(arguments)
    import numpy as np

    from diffvqa_rt.files import make_folder, write_whole
    from diffvqa_rt.models.weights import save_weights, weights_sha256
    from diffvqa_rt.synthetic.labelled import videos_digest
    from diffvqa_rt.text.wordpiece import WordPiece
    from diffvqa_rt.training.aigc_vqa.calibration import (
        agreement_lines,
        fit_calibration,
        main_score,
        on_opinions_scale,
        predict_numbers,
    )
    from diffvqa_rt.training.aigc_vqa.clips import DRAWS, PromptedClips, with_opinions
    from diffvqa_rt.training.aigc_vqa.objective import StageObjective
    from diffvqa_rt.training.best import BestWeights
    from diffvqa_rt.training.loop import fit, refuse_another_run
    from diffvqa_rt.training.media import media_digest
    from diffvqa_rt.training.opinions import OpinionBatches, write_scores

    with checked_arguments():
        stage = _stage(arguments)
    data = read_training_data(arguments)
    train, held_out = (
        with_opinions(videos, needs_prompts=stage.needs_prompts) for videos in (data.train, data.held_out)
    )
    network, was_trained, start = _network_to_train(arguments, stage, data.score_range)
    words = None
    if stage.needs_prompts:
        with checked_arguments():
            vocabulary = find_vocabulary(network.config, arguments.vocabulary)
        words = WordPiece.read(vocabulary, network.config.text.vocabulary_sha256)
    make_folder(arguments.out)
    accelerator = open_accelerator(arguments)
    clips = PromptedClips(network.config, [*train, *held_out], words)
    with checked_arguments():
        batches = OpinionBatches(
            train,
            clips,
            batch=arguments.batch,
            crops=DRAWS,
            processes=accelerator.num_processes,
            seed=arguments.seed,
        )
        config = dataclasses.replace(
            fit_config(arguments, arguments.epochs * batches.steps_per_epoch),
            warm_up_steps=max(1, round(arguments.warm_up_epochs * batches.steps_per_epoch)),
        )
    describes = {
        "network": network.config.as_dict(),
        "start": {"weights": weights_sha256(network)},
        "stage": dataclasses.asdict(stage),
        "data": {
            "split": arguments.split,
            "split_seed": arguments.split_seed,
            "epochs": arguments.epochs,
            "batch": arguments.batch,
            "videos": videos_digest(train),
            "media": media_digest([video.path for video in train]),
            "decoding": DECODING_VERSION,
        },
    }
    objective = StageObjective(network, stage)
    refuse_another_run(objective, config, arguments.out, describes, accelerator)
    best = BestWeights(arguments.out / "best.safetensors", objective.trained, config, describes)

    def validate() -> dict[str, float]:
        numbers = predict_numbers(network, held_out, clips, stage.branches, workers=arguments.workers)
        scalars = main_score(np.sum(list(numbers.values()), axis=0), held_out)
        best.consider(scalars.get("main", float("nan")))
        return scalars

    if accelerator.is_main_process:
        size = sum(p.numel() for p in network.parameters() if p.requires_grad)
        print(f"{size:,} parameters learn from {len(train)} videos; they start from {start}", file=sys.stderr)
    with step_bar(f"stage {arguments.stage}", config.steps) as show:
        fit(
            objective,
            batches,
            config,
            arguments.out,
            describes=describes,
            accelerator=accelerator,
            on_step=show,
            validate=validate if held_out else None,
            validate_steps=batches.steps_per_epoch,
        )
    if accelerator.is_main_process:
        opinions = np.array([video.label for video in train], float)
        numbers = predict_numbers(network, train, clips, stage.calibrated, workers=arguments.workers)
        calibration = fit_calibration(numbers, opinions, network.config.calibration)
        network.config = dataclasses.replace(network.config, calibration=calibration)
        path = arguments.out / "weights.safetensors"
        is_trained = was_trained or stage.branches == BRANCHES
        write_whole(path, lambda part: save_weights(network, part, is_trained=is_trained))
        learned = {branch: numbers[branch] for branch in stage.branches}
        for line in agreement_lines(learned, train):
            print(f"learned from, {len(train)} videos, {line}", file=sys.stderr)
        if held_out:
            found = predict_numbers(network, held_out, clips, stage.branches, workers=arguments.workers)
            for line in agreement_lines(found, held_out):
                print(f"held out, {len(held_out)} videos, {line}", file=sys.stderr)
            if math.isfinite(best.value):
                print(f"best epoch, chosen on what is held out: main {best.value:.4f}", file=sys.stderr)
            scores = on_opinions_scale(found, learned, opinions)
            write_whole(arguments.out / "scores.csv", lambda part: write_scores(part, held_out, scores))
        print_results(str(path))
    return 0


def _network_to_train(
    arguments: argparse.Namespace, stage: StageConfig, score_range: tuple[float, float]
) -> "tuple[AigcVqa, bool, str]":
    """The network of the arguments, whether it was trained before, and the words for where it comes from.

    Raises:
        UsageError: weights or checkpoints cannot be read.
    """
    from diffvqa_rt.models.aigc_vqa.published import find_published, load_published
    from diffvqa_rt.training.aigc_vqa.start import network_to_start_from

    with checked_arguments():
        network, was_trained = network_to_start_from(
            arguments.preset,
            arguments.weights,
            arguments.seed,
            score_range=score_range,
            has_adapter=stage.has_adapter,
        )
        start = str(arguments.weights or f"random ones of {arguments.preset}")
        if arguments.checkpoints:
            files = find_published(arguments.checkpoints, stage.branches)
            load_published(network, files)
            start = f"{', '.join(files)}, and where these have none {start}"
    return network, was_trained, start


TRAIN = TrainingStage(
    description="Train a stage of AIGC-VQA by correlation and rank of a batch's scores. Stage 1 teaches the technical "
    "and the aesthetic branch; stage 2 the alignment branch, from videos with prompts; stage 3 all of them and their "
    "sum. Each takes the weights of the one before. At its end scores are brought to the scale of the opinions, on the "
    "videos that were learned from. The last epoch is kept. A run that was stopped goes on at its last checkpoint when "
    "started again, and ends with the same weights. `accelerate launch -m diffvqa_rt.cli train …` and torchrun use "
    "several GPUs.",
    epilog="DIR gets weights.safetensors (for the next stage's --weights, and build_engines.py's), scores.csv (what "
    "the sum of the stage's branches gives the videos that were held out, for `diffvqa evaluate --scores`), "
    "best.safetensors (what learned, at the epoch that is best on what is held out), checkpoint.safetensors and "
    "tensorboard/.",
    add_arguments=_add_arguments,
    run=_run,
    memory_advice="use --gradient-checkpointing, which keeps the activations of one video at a time",
)
