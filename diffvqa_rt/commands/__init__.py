"""The subcommands of `diffvqa`, one module each. Packages that only some need are imported once those run."""

from diffvqa_rt.commands import batch, client, diagnose, evaluate, info, plan, score, serve, training
from diffvqa_rt.commands.command import Command

COMMANDS: tuple[Command, ...] = (
    score.COMMAND,
    batch.COMMAND,
    info.COMMAND,
    serve.COMMAND,
    client.COMMAND,
    plan.COMMAND,
    training.ADAPT,
    training.TRAIN,
    evaluate.COMMAND,
    diagnose.COMMAND,
)
"""All subcommands, in the order of `diffvqa --help`."""
