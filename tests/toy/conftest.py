"""The toy metric as one of the product's, in this process and in those that it starts, and its engine folder."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffvqa_rt.metric import Metric
from diffvqa_rt.metrics import registry

TOY = Path(__file__).parent
SITE = TOY / "site"
FOLDERS = {"diffvqa_rt.metrics": "metrics", "diffvqa_rt.models": "models", "diffvqa_export": "export"}


@pytest.fixture(scope="module")
def toy() -> Iterator[Metric]:
    """The toy metric, as `site/sitecustomize.py` makes it known to other processes."""
    name = "toy_luma"
    paths = [str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "METRICS", (*registry.METRICS, name))
        for package, folder in FOLDERS.items():
            module = importlib.import_module(package)
            patch.setattr(module, "__path__", [*module.__path__, str(TOY / folder)])
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.syspath_prepend(SITE)  # which the decoder's process takes over
        yield registry.metric_named(name)
    for module_name in [module for module in sys.modules if f".{name}" in module]:
        del sys.modules[module_name]


@pytest.fixture(scope="module")
def toy_engines(toy, tmp_path_factory) -> Path:
    """The toy's engines, built by the command that users run, where it puts them by itself. Not to be changed."""
    import build_engines

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("toy"))
        assert build_engines.main(["--metric", "toy_luma", "--preset", "five", "--backend", "onnx,torch"]) == 0
        return Path("build", "toy_luma-five").absolute()
