"""The metrics in the houses of others: `torchmetrics` as a metric of a training loop, `pyiqa` as a network of pyiqa's.

Each module imports the package that it is for, so nothing else of ours imports it, and nothing of ours depends on it.
"""
