"""What several test files need: a real engine folder, and a real clip."""

import importlib.util
import shutil
from pathlib import Path

import pytest

CLIP = Path(__file__).parents[1] / "examples" / "frog.mp4"


@pytest.fixture(scope="session")
def clip() -> Path:
    return CLIP


@pytest.fixture(scope="session")
def built_engines(tmp_path_factory) -> Path:
    """The `tiny` engines for what is installed, built once by the command that users run. Not to be changed."""
    import build_engines

    folder = tmp_path_factory.mktemp("engines") / "tiny"
    installed = ["onnx", "torch", *(["tensorrt-rtx"] if importlib.util.find_spec("tensorrt_rtx") else [])]
    assert build_engines.main(["--backend", ",".join(installed), "--out", str(folder)]) == 0
    return folder


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

    from diffvqa_rt.presets import TINY

    folder = tmp_path_factory.mktemp("untrained") / "tiny"
    request = BuildRequest(weights=random_weights(TINY), backends=("torch",), out=folder, clip=clip)
    build_engines(request, progress=lambda step: None)
    return folder


@pytest.fixture
def engines_copy(built_engines, tmp_path) -> Path:
    """An engine folder that a test may damage."""
    return Path(shutil.copytree(built_engines, tmp_path / "engines"))


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """What measures VMAF; without it, only what needs no label is tested."""
    from diffvqa_rt.errors import SyntheticSetError
    from diffvqa_rt.training.vmaf import ffmpeg_version

    try:
        return ffmpeg_version()
    except SyntheticSetError as error:
        pytest.skip(str(error))
