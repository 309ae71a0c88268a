"""The subcommands of `diffvqa`, one module each. Packages that only some need are imported once those run."""

from diffvqa_rt.commands import adapt, client, diagnose, evaluate, info, plan, score, serve, train
from diffvqa_rt.commands.command import Command

COMMANDS: tuple[Command, ...] = (
    score.COMMAND,
    info.COMMAND,
    serve.COMMAND,
    client.COMMAND,
    plan.COMMAND,
    adapt.COMMAND,
    train.COMMAND,
    evaluate.COMMAND,
    diagnose.COMMAND,
)
"""All subcommands, in the order of `diffvqa --help`."""
