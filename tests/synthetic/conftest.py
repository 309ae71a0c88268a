"""A small pool, and a set that is made of it."""

import hashlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import painting
from synthetic_clips import small_config

from diffvqa_rt.synthetic.clip_files import write_clip
from diffvqa_rt.synthetic.make import SyntheticConfig, make_synthetic_set
from diffvqa_rt.synthetic.pool import MEDIA, Pool, PoolItem


@pytest.fixture(scope="session")
def pool(tmp_path_factory) -> Pool:
    """Two photographs, a video that moves, one that stands still, and one that is not there. Not to be changed."""
    folder = tmp_path_factory.mktemp("pool")
    painting(0, 500, 320).save(folder / "one.png")
    painting(1, 500, 320).save(folder / "two.png")
    wide = np.asarray(painting(2, 500, 200))
    write_clip(
        folder / "moving.mp4", np.stack([wide[:170, 5 * t : 5 * t + 240] for t in range(30)]), Fraction(15), crf=5
    )
    write_clip(folder / "still.mp4", np.stack([wide[:170, :240]] * 14), Fraction(15), crf=5)

    def item(name: str, kind: str, size: tuple[int, int]) -> PoolItem:
        path, content = folder / name, Path(name).stem
        return PoolItem(
            kind=kind,
            content=content,
            group=content,
            package=MEDIA,
            path=name,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "0" * 64,
            width=size[0],
            height=size[1],
            reduction=2.0 if kind == "photo" else 1.0,
            licence="CC0",
        )

    items = (
        item("one.png", "photo", (500, 320)),
        item("two.png", "photo", (500, 320)),
        item("absent.png", "photo", (500, 320)),
        item("moving.mp4", "video", (240, 170)),
        item("still.mp4", "video", (240, 170)),
    )
    files = {entry.content: folder / entry.path for entry in items if (folder / entry.path).exists()}
    return Pool(items=items, files=files, missing=())


@pytest.fixture(scope="session")
def made(ffmpeg, pool, tmp_path_factory) -> SyntheticConfig:
    """A small set. Not to be changed."""
    config = small_config(tmp_path_factory.mktemp("set") / "a", jobs=2)
    make_synthetic_set(config, pool)
    return config
