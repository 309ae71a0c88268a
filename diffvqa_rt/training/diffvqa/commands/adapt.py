"""`diffvqa adapt` of DiffVQA: the Controller learns to reconstruct (eq. 10 of the paper) on frames from any folder."""

import argparse
from pathlib import Path

from diffvqa_rt.arguments import checked_arguments, whole_number
from diffvqa_rt.standard_output import print_results
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

_PER_FILE = 2


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("media", nargs="+", type=Path, metavar="MEDIA", help="a folder, searched below too, or a file")
    command.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help="where to start: a Stable Diffusion 2.1-base folder in diffusers' layout, or safetensors weights of ours; "
        "or hf://ORG/NAME@REVISION, which has either",
    )
    command.add_argument(
        "--steps", type=whole_number(1), default=30_000, metavar="N", help="updates (default: %(default)s)"
    )
    add_fit_arguments(command, learning_rate=1e-4, weight_decay=1e-2, batch=32)


def _run(arguments: argparse.Namespace) -> int:
    require_packages()
    from diffvqa_rt.models.diffvqa.checkpoints import STABLE_DIFFUSION_FILES

    fetch_weights(arguments, STABLE_DIFFUSION_FILES)
    from diffvqa_rt.files import make_folder, write_whole
    from diffvqa_rt.models.weights import save_weights, weights_sha256
    from diffvqa_rt.training.diffvqa.denoising import DenoisingObjective
    from diffvqa_rt.training.diffvqa.pictures import PictureBatches
    from diffvqa_rt.training.diffvqa.start import network_to_start_from
    from diffvqa_rt.training.loop import fit
    from diffvqa_rt.training.media import find_media, media_digest

    with checked_arguments():
        config = fit_config(arguments, arguments.steps)
        network, _ = network_to_start_from(arguments.weights)
    files = find_media(arguments.media)
    make_folder(arguments.out)
    accelerator = open_accelerator(arguments)
    with checked_arguments():
        batches = PictureBatches(
            files,
            batch=arguments.batch,
            per_file=_PER_FILE if arguments.batch % _PER_FILE == 0 else 1,
            frames=network.config.frames,
            size=network.config.view_size,
            seed=arguments.seed,
            processes=accelerator.num_processes,
        )
    describes = {
        "network": network.config.as_dict(),
        "start": {"weights": weights_sha256(network)},
        "data": {"media": media_digest(files), "batch": arguments.batch, "decoding": DECODING_VERSION},
    }
    with step_bar("adapt", config.steps) as show:
        objective = DenoisingObjective(network.extractor, trains="controller")
        fit(objective, batches, config, arguments.out, describes=describes, accelerator=accelerator, on_step=show)
    if accelerator.is_main_process:
        path = arguments.out / "adapted.safetensors"
        write_whole(path, lambda part: save_weights(network.cpu(), part, is_trained=False))
        print_results(str(path))
    return 0


ADAPT = TrainingStage(
    description="Adapt Stable Diffusion to reading quality: the Controller learns by eq. (10) of the paper on "
    "frames of the videos and images in folders, everything else stays frozen. A run that was stopped goes on at "
    "its last checkpoint when started again, and ends with the same weights. `accelerate launch -m diffvqa_rt.cli "
    "adapt …` and torchrun use several GPUs.",
    epilog="DIR gets adapted.safetensors (for `diffvqa train --weights`), checkpoint.safetensors and tensorboard/.",
    add_arguments=_add_arguments,
    run=_run,
    memory_advice="use a smaller --batch",
)
