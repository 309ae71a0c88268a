"""The prompts of `diffvqa score` and `diffvqa client`: a text for all videos, or a table with one for each."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from diffvqa_rt.arguments import UsageError
from diffvqa_rt.errors import InputError
from diffvqa_rt.evaluation.mos_table import SourceRow, read_csv
from diffvqa_rt.metric import check_prompt


def add_prompt_arguments(command: argparse.ArgumentParser) -> None:
    given = command.add_mutually_exclusive_group()
    given.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="the text that the videos were made from, for a metric that takes one; several give a row each, and a "
        "video is seen once (default: such a metric scores the video alone, on another scale)",
    )
    given.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="a CSV with the columns video,prompt; a video is looked up as it is given here, else by its file's name",
    )


def prompts_of(arguments: argparse.Namespace, videos: Sequence[str]) -> list[list[str]] | None:
    """For each video its prompts, or None where the command has none.

    Raises:
        UsageError: a prompt is blank, or the table lacks a video or has it twice.
        MosTableError: the table cannot be read.
    """
    if arguments.prompts is not None:
        return [[prompt] for prompt in _looked_up(arguments.prompts, videos)]
    if arguments.prompt is None:
        return None
    for prompt in arguments.prompt:
        _check("--prompt", prompt)
    return [arguments.prompt for _ in videos]


def result_count(videos: Sequence[str], prompts: list[list[str]] | None) -> int:
    """The number of results that there will be."""
    return len(videos) if prompts is None else sum(map(len, prompts))


def _looked_up(table: Path, videos: Sequence[str]) -> list[str]:
    rows: dict[str, SourceRow] = {}
    for row in read_csv(table, ["video", "prompt"]):
        name = row.cells["video"]
        if name in rows:
            raise UsageError(f"{row.where}: {name} appears twice; first in {rows[name].where}")
        _check(row.where, row.cells["prompt"])
        rows[name] = row
    prompts = []
    for video in videos:
        found = rows.get(video) or rows.get(Path(video).name)
        if found is None:
            raise UsageError(f"{table} has no row for {video}; add one, under this name or {Path(video).name}")
        prompts.append(found.cells["prompt"])
    return prompts


def _check(where: str, prompt: str) -> None:
    try:
        check_prompt(prompt)
    except InputError as error:
        raise UsageError(f"{where}: {error}") from None
