"""Export a DiffVQA network, build its engines, prove them against torch, write an engine folder."""

import argparse
import sys
import time
from pathlib import Path

from diffvqa_rt.engines import BACKENDS
from diffvqa_rt.engines.describe import describe
from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.presets import PRESETS, preset_named

CLIP = Path(__file__).parents[1] / "examples" / "frog.mp4"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny", help=f"the network: {', '.join(PRESETS)} (default: %(default)s)")
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="safetensors file of the network's weights, or a Stable Diffusion 2.1-base folder (default: the preset's "
        "bundled weights; until those exist, seeded random ones, and every output says untrained)",
    )
    parser.add_argument(
        "--backend",
        default="onnx",
        metavar="NAME[,NAME]",
        help=f"what to build: {', '.join(BACKENDS)}, or several with commas (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the engine folder (default: build/PRESET)")
    parser.add_argument(
        "--clip",
        type=Path,
        default=CLIP,
        metavar="VIDEO",
        help="real video for the parity check (default: %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 built, 1 failed (one sentence on stderr), 2 bad arguments."""
    arguments = parse_arguments(argv)
    # Torch takes seconds to import, and --help needs none of it.
    try:
        from diffvqa_export.build import BuildRequest, build_engines
        from diffvqa_export.weights import choose_weights
    except ModuleNotFoundError as error:
        print(f"build_engines.py: {error.name} is not installed: pip install 'diffvqa-rt[export]'", file=sys.stderr)
        return 1
    try:
        preset = preset_named(arguments.preset)
        chosen = choose_weights(preset, arguments.weights)
        request = BuildRequest(
            backends=tuple(arguments.backend.split(",")),
            out=arguments.out or Path("build") / preset.name,
            clip=arguments.clip,
            is_trained=chosen.is_trained,
            source=chosen.source,
        )
    except ValueError as error:
        print(f"build_engines.py: {error}", file=sys.stderr)
        return 2
    start = time.perf_counter()

    def report_progress(step: str) -> None:
        print(f"[{time.perf_counter() - start:6.1f} s] {step}", file=sys.stderr, flush=True)

    try:
        manifest = build_engines(chosen.network, request, report_progress)
    except (DiffVQAError, OSError) as error:
        print(f"build_engines.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("build_engines.py: interrupted; nothing was written", file=sys.stderr)
        return 130
    report_progress(f"wrote {request.out}")
    print(describe(manifest))
    return 0


if __name__ == "__main__":
    sys.exit(main())
