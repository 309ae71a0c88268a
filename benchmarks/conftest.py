"""What every benchmark shares: one real clip, one engine folder, one line about the machine."""

import datetime
import importlib.metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def clip() -> Path:
    return ROOT / "examples" / "frog.mp4"


@pytest.fixture(scope="session")
def engines_folder(tmp_path_factory) -> Path:
    """The `tiny` engines for every backend on this machine, built for this run: a benchmark of stale engines lies."""
    import build_engines

    folder = tmp_path_factory.mktemp("engines") / "tiny"
    assert build_engines.main(["--backend", "onnx,torch", "--out", str(folder)]) == 0
    return folder


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    machine_info["versions"] = {
        name: importlib.metadata.version(name) for name in ("diffvqa-rt", "numpy", "onnxruntime", "torch", "av")
    }
