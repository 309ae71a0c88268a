"""What the tests of the server's repository and of its production form need."""

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def cuda_engines(built_engines, tmp_path_factory) -> Path:
    return as_for_cuda(built_engines, tmp_path_factory.mktemp("engines") / "tiny")


@pytest.fixture(scope="module")
def small_cuda_engines(small_engines, tmp_path_factory) -> Path:
    return as_for_cuda(small_engines, tmp_path_factory.mktemp("engines") / "small")


def as_for_cuda(engines: Path, folder: Path) -> Path:
    """Copies an engine folder to one as a build with `--backend onnx,onnx-cuda` leaves it: the same files for both."""
    shutil.copytree(engines, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["backends"]["onnx-cuda"] = manifest["backends"]["onnx"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
