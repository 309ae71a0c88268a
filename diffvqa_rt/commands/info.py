"""`diffvqa info`: the manifest of an engine folder, verified and printed for a person; or the presets."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from diffvqa_rt.commands.command import Command
from diffvqa_rt.engines import Manifest
from diffvqa_rt.engines.describe import describe
from diffvqa_rt.metrics.registry import METRICS, metric_named
from diffvqa_rt.standard_output import print_results
from diffvqa_rt.weights_figures import figures_of


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "engines",
        type=Path,
        nargs="?",
        metavar="ENGINES",
        help="an engine folder (default: none, and the networks that can be built are printed)",
    )


def _run(arguments: argparse.Namespace) -> int:
    if arguments.engines is None:
        print_results("\n".join(_describe_presets()))
        return 0
    manifest = Manifest.read(arguments.engines)
    manifest.verify(arguments.engines)
    print_results(describe(manifest))
    return 0


def _describe_presets() -> Iterator[str]:
    """A line for each preset of each metric, and under it what its bundled weights reach and cost."""
    for metric in METRICS:
        for name, preset in metric_named(metric).presets.items():
            yield f"--metric {metric} --preset {name}: {preset.describe()}"
            figures = figures_of(metric, name)
            yield from (f"  {line}" for line in (figures.describe() if figures else ()))


COMMAND = Command(
    name="info",
    help="what an engine folder holds, and what can be built",
    description="Verify an engine folder and print its manifest: the network, its weights, where it was built, "
    "and how far its engines are from torch. Without a folder, print the networks that build_engines.py builds, and "
    "what their bundled weights reach and cost.",
    add_arguments=_add_arguments,
    run=_run,
)
