"""The subcommands of `diffvqa`, one module each. Packages that only some need are imported once those run."""

from diffvqa_rt.commands import (
    batch,
    client,
    compare,
    diagnose,
    doctor,
    evaluate,
    info,
    plan,
    report,
    score,
    serve,
    training,
)
from diffvqa_rt.commands.command import Command

COMMANDS: tuple[Command, ...] = (
    score.COMMAND,
    batch.COMMAND,
    info.COMMAND,
    doctor.COMMAND,
    serve.COMMAND,
    client.COMMAND,
    compare.COMMAND,
    plan.COMMAND,
    training.ADAPT,
    training.TRAIN,
    evaluate.COMMAND,
    diagnose.COMMAND,
    report.COMMAND,
)
"""All subcommands, in the order of `diffvqa --help`."""
