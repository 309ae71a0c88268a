"""`diffvqa train` of DiffV²IQA: the branches on opinions, from crops that are restored once (SPEC §8)."""

import argparse
import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from diffvqa_rt.arguments import UsageError, checked_arguments, whole_number
from diffvqa_rt.standard_output import print_results
from diffvqa_rt.training.arguments import (
    add_cache_arguments,
    add_fit_arguments,
    fetch_weights,
    fit_config,
    item_bar,
    open_accelerator,
    require_packages,
    step_bar,
)
from diffvqa_rt.training.data import add_data_arguments, add_validation_argument, read_training_data, with_validation
from diffvqa_rt.training.registry import TrainingStage

if TYPE_CHECKING:
    from diffvqa_rt.models.diffv2iqa.network import DiffV2IQA


def _add_arguments(command: argparse.ArgumentParser) -> None:
    add_data_arguments(command)
    add_validation_argument(command)
    command.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help="what to start from: adapted.safetensors of `diffvqa adapt --metric diffv2iqa`, whose branches are new "
        "ones, or trained weights of ours, whose branches go on from what they have learned",
    )
    command.add_argument(
        "--vit", type=Path, metavar="FILE", help="a ViT checkpoint, in timm's, torchvision's or transformers' layout"
    )
    command.add_argument("--resnet", type=Path, metavar="FILE", help="a ResNet checkpoint, in torchvision's layout")
    command.add_argument(
        "--train-encoders", action="store_true", help="let the ViT and the ResNet learn too, which the paper freezes"
    )
    command.add_argument(
        "--epochs", type=whole_number(1), default=100, metavar="N", help="over the pictures (default: %(default)s)"
    )
    command.add_argument(
        "--crops",
        type=whole_number(1),
        default=8,
        metavar="C",
        help="crops to restore of each picture; each step draws one (default: %(default)s)",
    )
    add_cache_arguments(command, Path("build/restored"), "restored crops")
    add_fit_arguments(command, learning_rate=1e-5, weight_decay=1e-5, batch=4, schedule="cosine")


def _run(arguments: argparse.Namespace) -> int:
    require_packages()
    fetch_weights(arguments)
    from diffvqa_rt.files import make_folder, write_whole
    from diffvqa_rt.models.weights import save_weights, weights_sha256
    from diffvqa_rt.synthetic.labelled import videos_digest
    from diffvqa_rt.training.best import BestWeights
    from diffvqa_rt.training.diffv2iqa.branches import BranchesObjective, agreement_line, predict_pictures
    from diffvqa_rt.training.diffv2iqa.cache import RestoredCache, Restoring, view_of
    from diffvqa_rt.training.entry_cache import CropOfVideo
    from diffvqa_rt.training.filling import fill_entries
    from diffvqa_rt.training.loop import fit, refuse_another_run
    from diffvqa_rt.training.opinions import OpinionBatches, agreement_scalars, write_scores

    data = with_validation(read_training_data(arguments), arguments.validation_percent, arguments.split_seed)
    network, are_new = _network_to_train(arguments, data.score_range)
    make_folder(arguments.out)
    accelerator = open_accelerator(arguments)
    restoring = Restoring(network, accelerator)
    cache = RestoredCache(arguments.cache, restoring, network.config, max_bytes=arguments.cache_gigabytes * 10**9)
    with checked_arguments():
        batches = OpinionBatches(
            data.train,
            cache,
            batch=arguments.batch,
            crops=arguments.crops,
            processes=accelerator.num_processes,
            seed=arguments.seed,
        )
        config = fit_config(arguments, arguments.epochs * batches.steps_per_epoch)
    learned_from = [CropOfVideo(picture.path, crop) for picture in data.train for crop in range(arguments.crops)]
    watched = data.validation or data.held_out
    entries = learned_from + [
        CropOfVideo(picture.path, crop)
        for picture in (*data.validation, *data.held_out)
        for crop in range(arguments.crops)
    ]
    describes = {
        "network": network.config.as_dict(),
        "start": {"new_branches": are_new, "weights": weights_sha256(network)},
        "data": {
            "split": arguments.split,
            "split_seed": arguments.split_seed,
            "validation": videos_digest(data.validation),
            "epochs": arguments.epochs,
            "batch": arguments.batch,
            "crops": arguments.crops,
            "videos": videos_digest(data.train),
            "train_encoders": arguments.train_encoders,
        },
        "restored": {
            **{name: restoring.description[name] for name in ("precision", "runtime")},
            "entries": cache.digest(learned_from),
        },
    }
    objective = BranchesObjective(network, trains_encoders=arguments.train_encoders)
    refuse_another_run(objective, config, arguments.out, describes, accelerator)
    if accelerator.is_main_process:
        branches = "random ones" if are_new else f"those of {arguments.weights}, which go on learning"
        print(f"branches to start from: {branches}", file=sys.stderr)
        kept = [name for name, given in (("ViT", arguments.vit), ("ResNet", arguments.resnet)) if given is None]
        if are_new and kept and not arguments.train_encoders:
            print(
                f"{' and '.join(kept)}: as {arguments.weights} has it, and random where that is what `diffvqa adapt` "
                "wrote; --vit and --resnet read pretrained ones, --train-encoders trains them",
                file=sys.stderr,
            )
        print(
            f"restored crops of this run: {cache.bytes_of(entries) / 1e9:.1f} GB in {arguments.cache}", file=sys.stderr
        )
    with item_bar("restored crops", "crop") as show_crops:
        fill_entries(
            cache,
            entries,
            partial(view_of, network.config),
            restoring,
            accelerator,
            workers=arguments.workers,
            on_progress=show_crops,
        )
    del restoring
    best = BestWeights(arguments.out / "best.safetensors", objective.trained, config, describes)

    def validate() -> dict[str, float]:
        scalars = agreement_scalars(predict_pictures(network, watched, cache, crops=1), watched)
        if data.validation:
            best.consider(scalars.get("srcc", float("nan")))
        return scalars

    with step_bar("train", config.steps) as show:
        fit(
            objective,
            batches,
            config,
            arguments.out,
            describes=describes,
            accelerator=accelerator,
            on_step=show,
            validate=validate if watched else None,
            validate_steps=batches.steps_per_epoch,
        )
    if accelerator.is_main_process:
        best.restore()
        path = arguments.out / "weights.safetensors"
        write_whole(path, lambda part: save_weights(network, part, is_trained=True))
        sides = {"learned from": data.train, "validation": data.validation, "held out": data.held_out}
        scores = {name: predict_pictures(network, side, cache, arguments.crops) for name, side in sides.items()}
        if data.held_out:
            held_out = scores["held out"]
            write_whole(arguments.out / "scores.csv", lambda part: write_scores(part, data.held_out, held_out))
        for name, side in sides.items():
            if side:
                print(f"{name}, {agreement_line(scores[name], side, network.config)}", file=sys.stderr)
        print_results(str(path))
    return 0


def _network_to_train(arguments: argparse.Namespace, score_range: tuple[float, float]) -> "tuple[DiffV2IQA, bool]":
    """The network of the weights, for this range of scores, and True where its branches are new ones.

    Raises:
        UsageError: weights or an encoder's checkpoint cannot be read, or one is given for trained branches.
    """
    from diffvqa_rt.models.diffv2iqa.checkpoints import load_resnet, load_vit, load_weights
    from diffvqa_rt.models.diffv2iqa.network import DiffV2IQA
    from diffvqa_rt.models.weights import network_from_state
    from diffvqa_rt.training.diffv2iqa.branches import with_new_branches

    with checked_arguments():
        start, is_trained = load_weights(arguments.weights)
        config = dataclasses.replace(start.config, score_range=score_range)
        if is_trained:
            if arguments.vit or arguments.resnet:
                raise UsageError(
                    f"{arguments.weights} has branches that learned to read its own ViT and ResNet; leave --vit and "
                    "--resnet out, or begin with weights of diffvqa adapt"
                )
            # Branches tell shares of the range, so that another range moves no weight.
            network = network_from_state(DiffV2IQA, config, start.state_dict(), arguments.weights)
        else:
            network = with_new_branches(start, config, arguments.seed)
        if arguments.vit and network.vit is not None:
            load_vit(network.vit, arguments.vit)
        if arguments.resnet and network.resnet is not None:
            load_resnet(network.resnet, arguments.resnet)
    return network, not is_trained


TRAIN = TrainingStage(
    description="Train the branches by squared error on a data set's opinions. The restorer stays frozen, so that each "
    "crop is restored once and kept; ViT and ResNet stay frozen too. A run that was stopped goes on at its last "
    "checkpoint when started again, and ends with the same weights. `accelerate launch -m diffvqa_rt.cli train …` and "
    "torchrun use several GPUs.",
    epilog="DIR gets weights.safetensors (for build_engines.py --weights), scores.csv (what it gives the pictures that "
    "were held out, for `diffvqa evaluate --scores`), best.safetensors with a validation share, checkpoint.safetensors "
    "and tensorboard/.",
    add_arguments=_add_arguments,
    run=_run,
    memory_advice="use a smaller --batch or fewer --crops",
)
