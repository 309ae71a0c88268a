"""`diffvqa adapt` of DiffV²IQA: the restorer learns to restore, from pairs of pictures (SPEC §2, eq. 6)."""

import argparse
import sys
from pathlib import Path

from diffvqa_rt.arguments import checked_arguments, whole_number
from diffvqa_rt.metrics.diffv2iqa.presets import PRESETS, TINY
from diffvqa_rt.standard_output import print_results
from diffvqa_rt.synthetic.distortions import STILL_LADDERS
from diffvqa_rt.training.arguments import (
    add_fit_arguments,
    fetch_weights,
    fit_config,
    open_accelerator,
    require_packages,
    step_bar,
)
from diffvqa_rt.training.registry import TrainingStage
from diffvqa_rt.video import DECODING_VERSION

_PER_PAIR = 4
_MEASURED_PICTURES = 32


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "media",
        nargs="+",
        type=Path,
        metavar="MEDIA",
        help="pristine pictures, to be distorted by the project's own catalogue: a folder, searched below too, or a "
        "file; or pairs: a CSV table with the columns reference,distorted, or a data set that has references, as "
        "pipal=/data/PIPAL",
    )
    start = command.add_mutually_exclusive_group()
    start.add_argument(
        "--preset",
        choices=PRESETS,
        default=TINY.name,
        help="the size of a network that begins with nothing learned (default: %(default)s)",
    )
    start.add_argument("--weights", metavar="FILE", help="safetensors weights of ours to go on from")
    command.add_argument(
        "--sr3", type=Path, metavar="FILE", help="a checkpoint of SR3's network that the restorer starts from"
    )
    command.add_argument(
        "--ladders",
        type=_ladders,
        default=",".join(STILL_LADDERS),
        metavar="NAME,…",
        help="types of distortion for pictures without a distorted version (default: all, %(default)s)",
    )
    command.add_argument(
        "--crop-side",
        type=whole_number(8),
        default=64,
        metavar="PIXELS",
        help="of the crops that are learned from (default: %(default)s)",
    )
    command.add_argument(
        "--steps", type=whole_number(1), default=800_000, metavar="N", help="updates (default: %(default)s)"
    )
    add_fit_arguments(command, learning_rate=1e-5, weight_decay=0.0, batch=256)


def _ladders(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(STILL_LADDERS):
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))} is no type of distortion; expected some of {', '.join(STILL_LADDERS)}"
        )
    return names


def _run(arguments: argparse.Namespace) -> int:
    require_packages()
    fetch_weights(arguments)
    from diffvqa_rt.files import make_folder, write_whole
    from diffvqa_rt.models.diffv2iqa.sr3 import load_sr3
    from diffvqa_rt.models.weights import save_weights, weights_sha256
    from diffvqa_rt.training.diffv2iqa.pairs import PairBatches, pairs_from
    from diffvqa_rt.training.diffv2iqa.restoration import RestorationObjective
    from diffvqa_rt.training.diffv2iqa.restoration_report import RestorationReport, report_on
    from diffvqa_rt.training.diffv2iqa.start import check_side, network_to_restore_with
    from diffvqa_rt.training.loop import fit
    from diffvqa_rt.training.media import media_digest

    with checked_arguments():
        config = fit_config(arguments, arguments.steps)
        network = network_to_restore_with(arguments.preset, arguments.weights, arguments.seed)
        check_side(network.config, arguments.crop_side)
        if arguments.sr3:
            load_sr3(network.restorer, arguments.sr3)
    pairs = pairs_from(arguments.media)
    make_folder(arguments.out)
    accelerator = open_accelerator(arguments)
    ladders = [STILL_LADDERS[name] for name in arguments.ladders]
    with checked_arguments():
        batches = PairBatches(
            pairs,
            batch=arguments.batch,
            per_pair=_PER_PAIR if arguments.batch % _PER_PAIR == 0 else 1,
            side=arguments.crop_side,
            seed=arguments.seed,
            processes=accelerator.num_processes,
            ladders=ladders,
        )
    side = network.config.view_size
    measured = PairBatches(pairs, batch=_MEASURED_PICTURES, per_pair=1, side=side, seed=arguments.seed, ladders=ladders)
    describes = {
        "network": network.config.as_dict(),
        "start": {"weights": weights_sha256(network)},
        "data": {
            "media": media_digest([path for pair in pairs for path in pair.files]),
            "pairs": len(pairs),
            "ladders": list(arguments.ladders),
            "crop_side": arguments.crop_side,
            "batch": arguments.batch,
            "decoding": DECODING_VERSION,
        },
    }
    reports: list[RestorationReport] = []

    def report() -> RestorationReport:
        # Of a step that no run comes to: other crops and distortions of the pictures that are learned from.
        views = measured[config.steps]
        reports.append(report_on(network.restorer, network.config, views, arguments.crop_side))
        return reports[-1]

    with step_bar("adapt", config.steps) as show:
        fit(
            RestorationObjective(network.restorer, network.config.sampler),
            batches,
            config,
            arguments.out,
            describes=describes,
            accelerator=accelerator,
            on_step=show,
            validate=lambda: report().scalars(),
        )
    if accelerator.is_main_process:
        found = reports[-1] if reports else report()  # the last is of the last step
        for line in found.lines():
            print(line, file=sys.stderr)
        found.check()
        path = arguments.out / "adapted.safetensors"
        write_whole(path, lambda part: save_weights(network.cpu(), part, is_trained=False))
        print_results(str(path))
    return 0


ADAPT = TrainingStage(
    description="Teach the restorer to restore, by eq. (6) of the paper, from pairs of a distorted picture and its "
    "reference; the rest of the network stays as it is. At the end the error of the noise is printed, at the crops' "
    "size and at the size that is scored, and how near the restored pictures are to their references. A run that was "
    "stopped goes on at its last checkpoint when started again, and ends with the same weights. `accelerate launch -m "
    "diffvqa_rt.cli adapt …` and torchrun use several GPUs.",
    epilog="DIR gets adapted.safetensors (for `diffvqa train --metric diffv2iqa --weights`), checkpoint.safetensors "
    "and tensorboard/.",
    add_arguments=_add_arguments,
    run=_run,
    memory_advice="use a smaller --batch or --crop-side",
)
