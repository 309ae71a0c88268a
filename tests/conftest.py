"""What several test files need: a real engine folder, a real clip, and a real server."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from served import Served

    from diffvqa_rt import VideoScore
    from diffvqa_rt.serving import Client

# Before anything imports Triton: without a GPU its kernels run in the interpreter.
if not Path("/proc/driver/nvidia/version").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

CLIP = Path(__file__).parents[1] / "examples" / "frog.mp4"
# Fixtures, and what is built for each. The longest build comes first.
BUILDS = {
    "built_engines": "diffvqa",
    "diffv2iqa_engines": "diffv2iqa",
    "small_engines": "small",
    "prompted_engines": "prompted",
}


def fixtures_of(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs built engines."""
    for item in items:
        if not BUILDS.keys().isdisjoint(fixtures_of(item)):
            item.add_marker(pytest.mark.engines)


@pytest.fixture(scope="session")
def clip() -> Path:
    return CLIP


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory) -> Path:
    """A file of `SMALLEST`'s weights, random ones that count as trained."""
    from training_network import SMALLEST

    from diffvqa_rt.models.diffvqa.network import random_network
    from diffvqa_rt.models.weights import save_weights

    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(random_network(SMALLEST), path, is_trained=True)
    return path


@pytest.fixture(scope="session")
def prompted_weights(tmp_path_factory) -> Path:
    """A file of a small AIGC-VQA's weights, random ones."""
    from prompted_network import save_small_weights

    return save_small_weights(tmp_path_factory.mktemp("weights") / "prompted.safetensors")


@pytest.fixture(scope="session")
def builds(request, small_weights, prompted_weights, tmp_path_factory) -> dict[str, Path]:
    """The engine folders that the chosen tests need, each made once by the command that users run, two at a time.

    An export is Python: it keeps one core busy. All are made before any test goes on, since some measure time.
    """
    import build_engines

    folder = tmp_path_factory.mktemp("engines")
    installed = ",".join(["onnx", "torch", *(["tensorrt-rtx"] if importlib.util.find_spec("tensorrt_rtx") else [])])
    arguments = {
        "small": ["--weights", str(small_weights), "--backend", "onnx,torch"],
        "prompted": ["--metric", "aigc_vqa", "--weights", str(prompted_weights), "--backend", "onnx,torch"],
    }

    def build(name: str) -> Path:
        given = arguments.get(name, ["--metric", name, "--backend", installed])
        command = [sys.executable, build_engines.__file__, *given, "--out", str(folder / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return folder / name

    asked = set().union(*map(fixtures_of, request.session.items))
    wanted = {fixture: name for fixture, name in BUILDS.items() if fixture in asked}
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(wanted, pool.map(build, wanted.values()), strict=True))


@pytest.fixture(scope="session")
def built_engines(builds) -> Path:
    """The `tiny` engines for what is installed. Not to be changed."""
    return builds["built_engines"]


@pytest.fixture(scope="session")
def diffv2iqa_engines(builds) -> Path:
    """DiffV²IQA's `tiny` engines for what is installed. Not to be changed."""
    return builds["diffv2iqa_engines"]


@pytest.fixture(scope="session")
def small_engines(builds) -> Path:
    """Engines of `SMALLEST`, for tests of what is around the network: a score takes no time. Not to be changed."""
    return builds["small_engines"]


@pytest.fixture(scope="session")
def prompted_engines(builds) -> Path:
    """Engines of a small AIGC-VQA with random weights. Not to be changed."""
    return builds["prompted_engines"]


@pytest.fixture
def manifest(built_engines):
    from diffvqa_rt.engines.manifest import Manifest

    return Manifest.read(built_engines)


@pytest.fixture(scope="session")
def untrained_engines(tmp_path_factory, clip) -> Path:
    """A folder for torch alone with random weights, as one of a preset without bundled weights has."""
    from diffvqa_export.build import build_engines
    from diffvqa_export.context import BuildRequest
    from diffvqa_export.weights import random_weights
    from training_network import SMALLEST

    folder = tmp_path_factory.mktemp("untrained") / "tiny"
    request = BuildRequest(weights=random_weights(SMALLEST), backends=("torch",), out=folder, clip=clip)
    build_engines(request, progress=lambda step: None)
    return folder


@pytest.fixture
def engines_copy(small_engines, tmp_path) -> Path:
    """An engine folder that a test may damage."""
    return Path(shutil.copytree(small_engines, tmp_path / "engines"))


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """What measures VMAF; without it, only what needs no label is tested."""
    from diffvqa_rt.errors import SyntheticSetError
    from diffvqa_rt.synthetic.vmaf import ffmpeg_version

    try:
        return ffmpeg_version()
    except SyntheticSetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def served(small_engines) -> "Iterator[Served]":
    """A server that all tests share, with limits that are soon reached."""
    from served import HAS_HTTP, MAX_REQUEST_MIB, Served, free_ports

    limits = ["--max-request-mib", MAX_REQUEST_MIB, "--max-frames", 400, "--max-frame-pixels", 10**6, "--max-crops", 3]
    api = ["--http-api", *free_ports(1)] if HAS_HTTP else []
    server = Served(small_engines, *map(str, [*limits, *api]))
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
def client(served) -> "Iterator[Client]":
    from diffvqa_rt.serving import Client

    with Client(served.url, deadline_seconds=120) as client:
        yield client


@pytest.fixture(scope="session")
def expected(small_engines, clip) -> "dict[str, tuple[bytes, VideoScore]]":
    """Each clip's bytes and its result in this process."""
    from served import CLIPS

    from diffvqa_rt import Scorer

    scorer = Scorer.open(small_engines)
    videos = {name: make() for name, make in CLIPS.items()} | {"frog.mp4": clip.read_bytes()}
    return {name: (video, scorer.score(video)) for name, video in videos.items()}
