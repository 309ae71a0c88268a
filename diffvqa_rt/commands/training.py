"""`diffvqa adapt` and `diffvqa train`: the stages of a metric's training, each with that metric's own arguments."""

import argparse

from diffvqa_rt.arguments import UsageError
from diffvqa_rt.commands.command import Command
from diffvqa_rt.metrics import registry
from diffvqa_rt.training.registry import TrainingStage, training_of


def _refusal(name: str, metric: str) -> TrainingStage:
    """The stage of a metric that has no such stage: whatever its arguments are, one sentence says so."""
    sentence = f"{registry.metric_named(metric).title} has no such stage; `diffvqa train` trains all of it"

    def add_arguments(command: argparse.ArgumentParser) -> None:
        command.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)

    def run(arguments: argparse.Namespace) -> int:
        raise UsageError(f"{name}: {sentence}")

    return TrainingStage(
        description=f"{sentence}.",
        epilog="",
        add_arguments=add_arguments,
        run=run,
        memory_advice="",
    )


def _command(name: str, help_line: str) -> Command:
    def for_metric(metric: str) -> Command:
        stage = getattr(training_of(metric), name) or _refusal(name, metric)

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
