"""The toy metric as one of the product's, in this process and in those that it starts, and its engine folder."""

import importlib
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffvqa_rt.metric import Metric
from diffvqa_rt.metrics import registry

TOY = Path(__file__).parent
ROOT = TOY.parents[1]
FOLDERS = {"diffvqa_rt.metrics": "metrics", "diffvqa_rt.models": "models", "diffvqa_export": "export"}


def make_python(folder: Path) -> Path:
    """A Python with this checkout, this Python's packages, and the toy metric.

    Not PYTHONPATH: the processes of Triton server's models find their packages by the Python that is first on PATH.
    """
    venv.create(folder, symlinks=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    lines = [
        *map(str, (TOY / "site", ROOT, ROOT / "kernels", ROOT / "export")),
        "import toy_luma_site",
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})",
    ]
    Path(packages, "toy.pth").write_text("\n".join(lines))
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Iterator[Metric]:
    """The toy metric, as `site/toy_luma_site.py` makes it known to other processes."""
    name = "toy_luma"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "METRICS", (*registry.METRICS, name))
        for package, folder in FOLDERS.items():
            module = importlib.import_module(package)
            patch.setattr(module, "__path__", [*module.__path__, str(TOY / folder)])
        patch.setattr(sys, "executable", str(make_python(tmp_path_factory.mktemp("python"))))
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
