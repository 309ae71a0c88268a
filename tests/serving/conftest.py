"""What the tests of the server's repository and of its production form need."""

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def cuda_engines(built_engines, tmp_path_factory) -> Path:
    """An engine folder as a build with `--backend onnx,onnx-cuda` leaves it: the same files for both."""
    folder = Path(shutil.copytree(built_engines, tmp_path_factory.mktemp("engines") / "tiny"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["backends"]["onnx-cuda"] = manifest["backends"]["onnx"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
