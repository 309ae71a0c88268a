"""What each part of the network is worth: the same recipe without it, on a part of the synthetic set.

    python benchmarks/ablation.py --work build/weights --out build/ablation.json

Every line has its own features and its own head: one without TCABs first, where it has any, and then the whole. All are
trained alike on the same ladders and measured on the same held-out contents. Lines are comparable with each other
alone: the bundled weights have seen more.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from machine import ROOT, machine

from diffvqa_rt.arguments import whole_number
from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.files import write_whole
from diffvqa_rt.metrics.diffvqa.config import DiffVQAConfig
from diffvqa_rt.models.diffvqa.checkpoints import load_weights
from diffvqa_rt.models.diffvqa.network import DiffVQA
from diffvqa_rt.synthetic.agreement.ladders import LadderAgreement, agreement_markdown, agreement_of
from diffvqa_rt.synthetic.labelled import some_scenes
from diffvqa_rt.training.diffvqa.bundled.head_start import diffusion_alone
from diffvqa_rt.training.diffvqa.bundled.recipe import Recipe
from diffvqa_rt.training.diffvqa.bundled.stages import WeightsBuild
from diffvqa_rt.training.diffvqa.extraction import TorchExtractor
from diffvqa_rt.training.diffvqa.head import predict_videos
from diffvqa_rt.training.diffvqa.start import with_new_head

PACKAGES = ("diffvqa-rt", "numpy", "torch")


def without_controller(network: DiffVQA) -> DiffVQA:
    """The frozen UNet alone: the Controller's zero convolutions at zero again."""
    for name, parameter in network.extractor.controller.named_parameters():
        if name.startswith("controlnet_"):
            torch.nn.init.zeros_(parameter)
    return network


def with_steps(network: DiffVQA, steps: int) -> DiffVQA:
    """The same weights with another K."""
    return with_new_head(network, network.config.with_steps(steps), seed=0)


def without_tcab(config: DiffVQAConfig) -> DiffVQAConfig:
    return replace(config, head=replace(config.head, tcab=replace(config.head.tcab, views="none")))


Line = tuple[Callable[[DiffVQA], DiffVQA], Callable[[DiffVQAConfig], DiffVQAConfig]]
"""What is done to the adapted network, and then to the description of its head."""


def _same(config: DiffVQAConfig) -> DiffVQAConfig:
    return config


LINES: dict[str, Line] = {
    "K=10": (lambda network: network, _same),
    "no Controller": (without_controller, _same),
    "no TCAB": (lambda network: network, without_tcab),
    "K=4": (lambda network: with_steps(network, 4), _same),
    "K=2": (lambda network: with_steps(network, 2), _same),
    "K=1": (lambda network: with_steps(network, 1), _same),
}


def ablate(
    build: WeightsBuild, name: str, *, train_scenes: int, held_out_scenes: int, epochs: int
) -> list[LadderAgreement]:
    """The agreement of one line's scores with the held-out labels and ladders."""
    change, describe = LINES[name]
    network = change(load_weights(build.controller())[0])
    train = some_scenes(build.videos("train", 1), train_scenes)
    held_out = some_scenes(build.videos("validation", 1), held_out_scenes)
    extract, scored = TorchExtractor(network, Accelerator()), build.recipe.scored_crop
    build.features(network, extract, train, range(build.recipe.head_crops))
    cache = build.features(network, extract, held_out, [scored])
    run, config, alone = f"ablation/{name.replace(' ', '-')}", describe(network.config), None
    if config.head.tcab.views != "none":
        # As the recipe does, but of this line's features.
        alone = build.train_head(f"{run}/diffusion-head", network, diffusion_alone(config), train, cache, epochs)
    trained = build.train_head(run, network, config, train, cache, epochs, alone)
    return agreement_of(held_out, predict_videos(trained, held_out, cache, scored), build.set)


def main(argv: list[str] | None = None, recipe: Recipe | None = None) -> int:
    """The command: 0 done, 1 failed (a sentence on stderr says why), 2 wrong arguments.

    Args:
        recipe: of the network and its training; that of the bundled weights if not given.
    """
    parser = argparse.ArgumentParser(
        description="Train and measure the network without its parts. A run that was stopped goes on.",
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/weights"), metavar="DIR", help="the recipe's (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "ablation.json", help="(build/ablation.json)")
    parser.add_argument(
        "--lines", default=",".join(LINES), metavar="NAME,…", help="which to train (default: %(default)s)"
    )
    for option, scenes in [("--train-scenes", 60), ("--held-out-scenes", 40)]:
        parser.add_argument(
            option, type=whole_number(1), default=scenes, metavar="N", help="a ladder of each (default: %(default)s)"
        )
    parser.add_argument("--epochs", type=whole_number(1), default=4, metavar="N", help="of each head (default: 4)")
    arguments = parser.parse_args(argv)
    names = arguments.lines.split(",")
    if unknown := [name for name in names if name not in LINES]:
        parser.error(f"there is no line {', '.join(unknown)}; expected some of {', '.join(LINES)}")
    build = WeightsBuild(recipe or Recipe(), arguments.work)
    options = {name: getattr(arguments, name) for name in ("train_scenes", "held_out_scenes", "epochs")}
    made: dict[str, list[LadderAgreement]] = {}
    try:
        for name in names:
            made[name] = ablate(build, name, **options)
            lines = {done: [asdict(row) for row in rows] for done, rows in made.items()}
            text = json.dumps(options | {"machine": machine(PACKAGES), "lines": lines}, indent=1) + "\n"
            write_whole(arguments.out, partial(Path.write_text, data=text, encoding="utf-8"))
    except DiffVQAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 1
    print(
        agreement_markdown(
            [replace(row, name=f"{name}: {row.name}") for name, rows in made.items() for row in rows[-2:]]
        ),
        end="",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
