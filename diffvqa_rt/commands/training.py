"""`diffvqa adapt` and `diffvqa train`: the stages of a metric's training, each with that metric's own arguments."""

import argparse

from diffvqa_rt.commands.command import Command
from diffvqa_rt.metrics import registry
from diffvqa_rt.training.registry import training_of


def _command(name: str, help_line: str) -> Command:
    def for_metric(metric: str) -> Command:
        stage = getattr(training_of(metric), name)

        def add_arguments(command: argparse.ArgumentParser) -> None:
            others = " and ".join(f"--metric {other} --help" for other in registry.METRICS if other != metric)
            command.add_argument(
                "--metric",
                choices=registry.METRICS,
                default=registry.DEFAULT,
                help=f"what is trained (default: %(default)s); these are the arguments of {metric}, and {others} "
                "shows others'",
            )
            stage.add_arguments(command)

        return Command(
            name=name,
            help=help_line,
            description=stage.description,
            epilog=stage.epilog,
            add_arguments=add_arguments,
            run=stage.run,
            memory_advice=stage.memory_advice,
            for_metric=for_metric,
        )

    return for_metric(registry.DEFAULT)


ADAPT = _command("adapt", "train a network on pictures that nobody has judged")
TRAIN = _command("train", "train a network on opinions")
