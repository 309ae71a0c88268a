"""`diffvqa train` of DiffVQA: the head on opinions, from features that are extracted once."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from diffvqa_rt.arguments import add_engine_arguments, checked_arguments, whole_number
from diffvqa_rt.metrics.diffvqa.config import TemporalBlock
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
from diffvqa_rt.training.data import add_data_arguments, read_training_data
from diffvqa_rt.training.diffvqa.commands.head_to_train import network_to_train
from diffvqa_rt.training.registry import TrainingStage

if TYPE_CHECKING:
    pass


def _add_arguments(command: argparse.ArgumentParser) -> None:
    add_data_arguments(command)
    command.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help="what to start from: adapted.safetensors of `diffvqa adapt`, whose head is a new one, or trained weights "
        "of ours, whose head goes on from what it has learned",
    )
    command.add_argument(
        "--new-head", action="store_true", help="begin with a random head, whatever the weights' own has learned"
    )
    command.add_argument(
        "--epochs", type=whole_number(1), default=50, metavar="N", help="over the videos (default: %(default)s)"
    )
    command.add_argument(
        "--crops",
        type=whole_number(1),
        # The paper draws a place each time (SPEC §1), which would run the extractor each time. Four places of 5,000
        # videos fit in the cache's 100 GB at `tiny`'s size.
        default=4,
        metavar="M",
        help="crop positions to extract for each video, random places wherever the network's own are; each step draws "
        "one of them. Each costs its share of --cache and of the time to extract (default: %(default)s)",
    )
    command.add_argument(
        "--tcab",
        choices=get_args(TemporalBlock),
        help="which views have the Mamba block, the variants of the paper's Table 6 (default: as the weights have it)",
    )
    command.add_argument(
        "--denoising-steps",
        type=whole_number(1),
        metavar="K",
        help="how many denoising steps the features are taken after; the fewer, the faster (default: as the weights "
        "have it)",
    )
    command.add_argument(
        "--videomamba",
        type=Path,
        metavar="FILE",
        help="a VideoMamba checkpoint, of videos or of images, that a new head's Mamba blocks start from",
    )
    add_cache_arguments(command, Path("build/features"), "features")
    add_engine_arguments(command, None, "none: torch extracts; engines of the same weights do it faster")
    add_fit_arguments(command, learning_rate=1e-5, weight_decay=1e-6, batch=2)


def _run(arguments: argparse.Namespace) -> int:
    require_packages()
    from diffvqa_rt.models.diffvqa.checkpoints import STABLE_DIFFUSION_FILES

    fetch_weights(arguments, STABLE_DIFFUSION_FILES)
    from diffvqa_rt.files import make_folder, write_whole
    from diffvqa_rt.models.weights import save_weights, weights_sha256
    from diffvqa_rt.synthetic.labelled import videos_digest
    from diffvqa_rt.training.diffvqa.extraction import EngineExtractor, Extractor, TorchExtractor, fill_cache
    from diffvqa_rt.training.diffvqa.features import FeatureCache
    from diffvqa_rt.training.diffvqa.head import HeadObjective, predict_videos
    from diffvqa_rt.training.diffvqa.start import network_to_start_from
    from diffvqa_rt.training.entry_cache import CropOfVideo
    from diffvqa_rt.training.loop import fit, refuse_another_run
    from diffvqa_rt.training.opinions import OpinionBatches, agreement_scalars, write_scores

    data = read_training_data(arguments)
    network, is_new_head = network_to_train(arguments, data.score_range)
    make_folder(arguments.out)
    accelerator = open_accelerator(arguments)
    extract: Extractor
    if arguments.engines is None:
        extract = TorchExtractor(network, accelerator)
    else:
        start, _ = network_to_start_from(arguments.weights, arguments.denoising_steps)
        extract = EngineExtractor(arguments.engines, start, arguments.backend, arguments.threads)
    cache = FeatureCache(
        arguments.cache,
        network,
        precision=extract.precision,
        runtime=extract.runtime,
        max_bytes=arguments.cache_gigabytes * 10**9,
    )
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
            write_whole(arguments.out / "scores.csv", lambda part: write_scores(part, data.held_out, scores))
        path = arguments.out / "weights.safetensors"
        write_whole(path, lambda part: save_weights(network.cpu(), part, is_trained=True))
        labelled = {video.name for video in data.held_out if video.label is not None}
        for name, value in agreement_scalars(scores, data.held_out).items():
            print(f"held out, {len(labelled)} videos: {name} {value:.4f}", file=sys.stderr)
        print_results(str(path))
    return 0


TRAIN = TrainingStage(
    description="Train the head by L1 on a data set's opinions; VAE, UNet and Controller stay frozen, so their "
    "features are extracted once and kept. A run that was stopped goes on at its last checkpoint when started "
    "again, and ends with the same weights. `accelerate launch -m diffvqa_rt.cli train …` and torchrun use several "
    "GPUs.",
    epilog="DIR gets weights.safetensors (for build_engines.py --weights), scores.csv (what it gives the videos "
    "that were held out, for `diffvqa evaluate --scores`), checkpoint.safetensors and tensorboard/.",
    add_arguments=_add_arguments,
    run=_run,
    memory_advice="use a smaller --batch or fewer --crops",
)
