"""Clips with prompts and opinions, for tests that train."""

import csv
from pathlib import Path

from clips import make_clip

PROMPTS = ("a red ball", "two blue squares", "a green star moving up", "three rings")


def save_prompted_clips(folder: Path, count: int, *, held_out: int = 0) -> Path:
    """Writes clips and their table, opinions on 1 … 5; the last `held_out` are the test split.

    Returns:
        The table.
    """
    table = folder / "mos.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "prompt", "mos", "split"])
        for number in range(count):
            (folder / f"{number}.mp4").write_bytes(make_clip(size=(72 + 8 * number, 80), frames=4))
            split = "test" if number >= count - held_out else "train"
            writer.writerow([f"{number}.mp4", PROMPTS[number % len(PROMPTS)], 1 + 4 * number / (count - 1), split])
    return table
