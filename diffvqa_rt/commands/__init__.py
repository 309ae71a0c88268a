"""The subcommands of `diffvqa`, one module each."""
