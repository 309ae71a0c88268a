"""`diffvqa diagnose`: pictures of what a network has learned, for a person to look at."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from diffvqa_rt.arguments import UsageError, checked_arguments, whole_number
from diffvqa_rt.commands.command import Command
from diffvqa_rt.engines import MAX_THREADS
from diffvqa_rt.engines.describe import UNTRAINED_NOTE
from diffvqa_rt.errors import DiagnosisError
from diffvqa_rt.extras import needs_package
from diffvqa_rt.hub import local_weights
from diffvqa_rt.standard_output import print_results
from diffvqa_rt.synthetic.clip_table import check_files, read_manifest
from diffvqa_rt.video import MAX_SEED

if TYPE_CHECKING:
    from diffvqa_rt.training.diffvqa.diagnosis.diagnose import Subject
    from diffvqa_rt.training.diffvqa.diagnosis.reconstruction import Reconstruction

MOST_VIDEOS = 20
"""Limit of videos; with more of them the picture would be too tall to look at."""

_Item = TypeVar("_Item")


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "videos",
        nargs="*",
        metavar="VIDEO",
        help=f"a video or image file whose middle frame is reconstructed; {MOST_VIDEOS} at most",
    )
    command.add_argument(
        "--weights", metavar="FILE", help="the network's weights, a safetensors file or hf://ORG/NAME@REVISION"
    )
    command.add_argument(
        "--decoder",
        type=Path,
        metavar="DECODER",
        help="the VAE's decoder, which is no part of the network: a Stable Diffusion folder in diffusers' layout, or a "
        "safetensors file with an AutoencoderKL's decoder.* and post_quant_conv.*",
    )
    command.add_argument(
        "--data",
        type=Path,
        metavar="SET",
        help="the folder of a synthetic set (python -m diffvqa_rt.synthetic)",
    )
    command.add_argument(
        "--split",
        choices=("validation", "train", "all"),
        default="validation",
        help="which of the set's clips t-SNE shows (default: %(default)s)",
    )
    command.add_argument(
        "--clips",
        type=whole_number(10),
        default=160,
        metavar="N",
        help="clips that t-SNE shows in each column, at most (default: %(default)s)",
    )
    command.add_argument("--run", type=Path, metavar="RUN", help="the folder of a training run; it has tensorboard/")
    command.add_argument(
        "--seed",
        type=whole_number(0, MAX_SEED),
        default=0,
        metavar="N",
        help="where the distortion view is cropped (default: %(default)s)",
    )
    command.add_argument(
        "--threads",
        type=whole_number(1, MAX_THREADS),
        metavar="N",
        help="CPU threads (default: all that this process may use)",
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("build/diagnosis"),
        metavar="DIR",
        help="the folder for the pictures (default: %(default)s)",
    )


def _run(arguments: argparse.Namespace) -> int:
    """Draws the pictures. The exit status: 0 done, 1 where videos were left out."""
    _check(arguments)
    try:
        from diffvqa_rt.training.diffvqa.diagnosis import diagnose
    except ModuleNotFoundError as error:
        raise DiagnosisError(needs_package("diagnosis", error.name, "train")) from error
    out: Path = arguments.out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiagnosisError(f"{out} cannot be written ({error.strerror})") from error
    failures: list[str] = []
    if arguments.run:
        diagnose.picture_curves(arguments.run, out / "curves.png")
        _say_wrote(out / "curves.png")
    if arguments.weights:
        with checked_arguments():
            weights = local_weights(arguments.weights)
        subject = diagnose.Subject.load(weights, arguments.threads)
        if not subject.is_trained:
            print(f"diffvqa: {UNTRAINED_NOTE}", file=sys.stderr)
        if arguments.videos:
            _diagnose_reconstructions(subject, arguments, failures)
        if arguments.data:
            _diagnose_embedding(subject, arguments, failures)
    return 1 if failures else 0


def _check(arguments: argparse.Namespace) -> None:
    """Raises UsageError where an argument is missing, or too much."""
    if arguments.videos and not (arguments.weights and arguments.decoder):
        raise UsageError("the reconstruction of videos needs --weights and --decoder")
    if arguments.data and not arguments.weights:
        raise UsageError("t-SNE of --data needs --weights")
    if arguments.decoder and not arguments.videos:
        raise UsageError("--decoder is for videos, and none is given")
    if not (arguments.videos or arguments.data or arguments.run):
        raise UsageError(
            "there is nothing to draw; give videos with --weights and --decoder, --data with --weights, or --run"
        )
    if len(arguments.videos) > MOST_VIDEOS:
        raise UsageError(f"{len(arguments.videos)} videos are too many for one picture; expected at most {MOST_VIDEOS}")


def _diagnose_reconstructions(subject: "Subject", arguments: argparse.Namespace, failures: list[str]) -> None:
    from diffvqa_rt.training.diffvqa.diagnosis import diagnose

    path = arguments.out / "reconstructions.png"
    decoder = subject.load_decoder(arguments.decoder)
    videos = _tracked(arguments.videos, "reconstructions")
    rows = diagnose.picture_reconstructions(
        subject, decoder, videos, arguments.seed, path, lambda sentence: _report(sentence, failures)
    )
    _say_wrote(path)
    print_results("\n".join(_table(rows)))


def _table(rows: "Sequence[Reconstruction]") -> list[str]:
    """The lines of a table of decibels."""
    lines = [
        f"{'VAE':>9} {'Controller':>18} {'UNet alone':>18}",
        f"{'picture':>9} {'picture':>9}{'latent':>9} {'picture':>9}{'latent':>9}  PSNR in dB of",
    ]
    for row in rows:
        pairs = [(one.picture_psnr_db, one.latent_psnr_db) for one in (row.adapted, row.unadapted)]
        cells = " ".join(f"{picture:9.2f}{latent:9.2f}" for picture, latent in pairs)
        lines.append(f"{row.round_trip_psnr_db:9.2f} {cells}  {row.name}, {row.view} view")
    return lines


def _diagnose_embedding(subject: "Subject", arguments: argparse.Namespace, failures: list[str]) -> None:
    from diffvqa_rt.training.diffvqa.diagnosis import diagnose

    path = arguments.out / "tsne.png"
    chosen = diagnose.clips_to_embed(read_manifest(arguments.data), arguments.split, arguments.clips)
    check_files(arguments.data, [clip for some in chosen.values() for clip in some])
    maps = diagnose.picture_embedding(
        subject,
        arguments.data,
        chosen,
        lambda clips: _tracked(clips, "t-SNE"),
        arguments.seed,
        path,
        lambda sentence: _report(sentence, failures),
    )
    _say_wrote(path)
    print_results("\n".join(f"{title}: {numbers}" for title, numbers in maps))


def _tracked(items: "Sequence[_Item]", what: str) -> "Iterable[_Item]":
    return tqdm(items, desc=what, unit="video", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)


def _report(sentence: str, failures: list[str]) -> None:
    tqdm.write(f"diffvqa: {sentence}", file=sys.stderr)
    failures.append(sentence)


def _say_wrote(path: Path) -> None:
    print(f"diffvqa: wrote {path}", file=sys.stderr)


COMMAND = Command(
    name="diagnose",
    help="draw what a network has learned",
    description="Draw pictures that show whether training went well, each if its inputs are given:\n\n"
    "  reconstructions.png  --weights --decoder VIDEO...  the frame at the middle of each video, what the VAE and\n"
    "                                                     the K steps make of it, with and without Controller\n"
    "  tsne.png             --weights --data              the fused features of a synthetic set's clips, by\n"
    "                                                     content and by distortion\n"
    "  curves.png           --run                         what a training run logged\n\n"
    "The numbers in the pictures are printed, too. A video that cannot be read is reported and left out, and the\n"
    "exit status is 1. A GPU is used if there is one.",
    formatter=argparse.RawDescriptionHelpFormatter,
    add_arguments=_add_arguments,
    run=_run,
)
