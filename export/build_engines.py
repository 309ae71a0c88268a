"""Export a metric's network, build its engines, prove them against torch, write an engine folder."""

import argparse
import errno
import sys
import time
from pathlib import Path

from diffvqa_export.registry import network_label

from diffvqa_rt.engines.backends import BACKENDS
from diffvqa_rt.engines.describe import describe
from diffvqa_rt.errors import DiffVQAError, WeightsError
from diffvqa_rt.extras import needs_package
from diffvqa_rt.files import FileWriteError
from diffvqa_rt.metrics import registry
from diffvqa_rt.metrics.registry import DEFAULT, metric_named
from diffvqa_rt.specs import Profile

CLIP = Path(__file__).parents[1] / "examples" / "frog.mp4"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--metric",
        default=DEFAULT,
        help=f"what the network measures: {', '.join(registry.METRICS)} (default: %(default)s)",
    )
    presets = "; ".join(f"{', '.join(metric_named(metric).presets)} of {metric}" for metric in registry.METRICS)
    parser.add_argument("--preset", default="tiny", help=f"the network: {presets} (default: %(default)s)")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="safetensors file of the network's weights, or hf://ORG/NAME@REVISION, which has one on the Hugging Face "
        "Hub, or a folder of published ones, which may be such a repository too: Stable Diffusion 2.1-base for "
        "diffvqa; SR3's, a ViT's and a ResNet-50's checkpoint, named restorer, vit and resnet50, for diffv2iqa; "
        "DOVER and ImageReward, or Swin, ConvNeXt and BLIP, so named, for aigc_vqa "
        "(default: the preset's bundled weights; without those, or with --steps that they were not trained at, seeded "
        "random ones, and every output says untrained)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="K",
        help="how often the network's loop runs: denoising steps of diffvqa, restoration steps of diffv2iqa; weights "
        "that were trained at another number are refused (default: as the weights were trained)",
    )
    parser.add_argument(
        "--backend",
        default="onnx",
        metavar="NAME[,NAME]",
        help=f"what to build: {', '.join(BACKENDS)}, or several with commas (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        help="what the large networks compute in: fp32, fp16 or bf16; samplers, heads and what overflows stay float32 "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the engine folder (default: build/PRESET, build/PRESET-1-step or build/PRESET-PRECISION; METRIC-PRESET "
        "for other metrics)",
    )
    parser.add_argument(
        "--clip",
        type=Path,
        default=CLIP,
        metavar="VIDEO",
        help="real video or picture for the parity check (default: %(default)s)",
    )
    parser.add_argument(
        "--videos",
        type=_profile,
        default=Profile(),
        metavar="OPT,MAX",
        help="TensorRT: how many videos at a time the engines are tuned for, and how many they take (default: 1,4)",
    )
    parser.add_argument(
        "--strip-weights",
        action="store_true",
        help="TensorRT: plans without weights, which they take at opening from the ONNX files beside them; needs a GPU",
    )
    parser.add_argument(
        "--version-compatible",
        action="store_true",
        help="TensorRT: plans that later versions of TensorRT open too (not for tensorrt-rtx)",
    )
    parser.add_argument(
        "--share-weights",
        action="store_true",
        help="ONNX: engines that read their weights from a copy of the safetensors file, half as large as their own",
    )
    parser.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="vocab.txt of bert-base-uncased, which the paper network of aigc_vqa spells prompts with",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be built, its size and its memory")
    return parser.parse_args(argv)


def _profile(text: str) -> Profile:
    try:
        tuned_for, most = (int(number) for number in text.split(","))
        return Profile(opt=tuned_for, max=most)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; expected two whole numbers in rising order, as 1,4") from None


def main(argv: list[str] | None = None) -> int:
    """Builds; returns the exit status: 0 built, 1 failed (one sentence on stderr), 2 bad arguments."""
    arguments = parse_arguments(argv)
    # Torch takes seconds to import, and --help needs none of it.
    try:
        from diffvqa_export.build import build_engines, refuse_what_cannot_be_built
        from diffvqa_export.context import BuildRequest
        from diffvqa_export.estimate import Estimate
        from diffvqa_export.weights import choose_weights
    except ModuleNotFoundError as error:
        print(f"build_engines.py: {needs_package('a build', error.name, 'export')}", file=sys.stderr)
        return 1
    try:
        metric = metric_named(arguments.metric)
        preset = metric.preset_named(arguments.preset)
        weights = choose_weights(preset, arguments.weights, metric=metric.name, steps=arguments.steps)
        name = network_label(metric.name, metric.label(weights.config))
        suffix = "" if arguments.precision == "fp32" else f"-{arguments.precision}"
        request = BuildRequest(
            weights=weights,
            backends=tuple(arguments.backend.split(",")),
            precision=arguments.precision,
            out=arguments.out or Path("build") / f"{name}{suffix}",
            clip=arguments.clip,
            metric=metric.name,
            profile=arguments.videos,
            strip_weights=arguments.strip_weights,
            version_compatible=arguments.version_compatible,
            share_weights=arguments.share_weights,
            vocabulary=arguments.vocabulary,
        )
    except (WeightsError, ValueError) as error:
        print(f"build_engines.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    start = time.perf_counter()

    def report_progress(step: str) -> None:
        print(f"[{time.perf_counter() - start:6.1f} s] {step}", file=sys.stderr, flush=True)

    try:
        refuse_what_cannot_be_built(request)
        estimate = Estimate.of(request)
        if arguments.dry_run:
            print(estimate.describe())
            return 0
        estimate.refuse_what_does_not_fit()
        manifest = build_engines(request, report_progress)
    except (OSError, FileWriteError) as error:
        print(f"build_engines.py: {_sentence(error, request.out)}", file=sys.stderr)
        return 1
    except (DiffVQAError, ValueError) as error:
        print(f"build_engines.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"build_engines.py: interrupted; the same command goes on from {request.out}.work", file=sys.stderr)
        return 130
    report_progress(f"wrote {request.out}; {request.out}.work keeps the steps for the next build, remove it at will")
    print(describe(manifest))
    return 0


def _sentence(error: OSError | FileWriteError, out: Path) -> str:
    if error.errno == errno.ENOSPC:
        return f"the disk of {out} is full; make room (see --dry-run), and the same command goes on from {out}.work"
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
