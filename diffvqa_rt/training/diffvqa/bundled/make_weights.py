"""The build of the bundled weights, from nothing: `make weights`.

    python -m diffvqa_rt.training.diffvqa.bundled.make_weights --work build/weights --out build/weights/made

The pool and the synthetic set, then the VAE, the UNet and a TCAB, which the networks share, and for each of them the
Controller and the head in turn, each on the training contents alone, and frozen once it is trained. What a stage leaves
is rounded to float16, which the next one starts from: nothing was trained on weights that are not the bundled ones. A
run that was stopped goes on.
"""

import argparse
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

from diffvqa_rt.arguments import whole_number
from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.files import write_whole
from diffvqa_rt.synthetic.agreement.ladders import agreement_markdown
from diffvqa_rt.training.diffvqa.bundled.recipe import NETWORKS, Recipe
from diffvqa_rt.training.diffvqa.bundled.stages import WeightsBuild


def main(argv: list[str] | None = None) -> int:
    """The command: 0 done, 1 failed (a sentence on stderr says why), 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m diffvqa_rt.training.diffvqa.bundled.make_weights",
        description="Make the bundled weights from nothing: hours on a processor. A run that was stopped goes on.",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("build/weights"),
        metavar="DIR",
        help="the set, the features and the runs, 25 GB (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the weights are to go")
    parser.add_argument(
        "--pool", type=Path, default=Path("build/pool"), metavar="DIR", help="pristine media (default: %(default)s)"
    )
    parser.add_argument("--media", type=Path, metavar="DIR", help="folder of the pool's files that are in no package")
    parser.add_argument(
        "--until", choices=("controller", "head"), default="head", help="the last stage (default: %(default)s)"
    )
    parser.add_argument(
        "--engines",
        type=Path,
        metavar="DIR",
        help="of engine folders, one a network, of WORK/NAME/controller.safetensors: they extract faster than torch",
    )
    parser.add_argument(
        "--workers", type=whole_number(0), default=1, metavar="N", help="that decode ahead (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    builds = [
        WeightsBuild(Recipe(network=network), arguments.work, workers=arguments.workers, engines=arguments.engines)
        for network in NETWORKS
    ]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        builds[0].synthetic_set(arguments.pool, arguments.media)
        for build in builds:
            print(build.controller())
        if arguments.until == "controller":
            return 0
        _bundle(builds[0].decoder(), arguments.out / "tiny-decoder.safetensors")
        for build in builds:
            _bundle(build.head(), arguments.out / f"{build.recipe.network.name}.safetensors")
            print(agreement_markdown(build.report()), end="")
    except DiffVQAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 1
    return 0


def _bundle(made: Path, path: Path) -> None:
    write_whole(path, partial(shutil.copyfile, made))
    print(path)


if __name__ == "__main__":
    sys.exit(main())
