"""Makes the toy metric one of the product's, in a Python that imports this module at its start.

It imports nothing of the product: it waits for the product to be imported.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from pathlib import Path

TOY = Path(__file__).parents[1]
FOLDERS = {
    "diffvqa_rt.metrics": TOY / "metrics",
    "diffvqa_rt.models": TOY / "models",
    "diffvqa_export": TOY / "export",
}
"""Where a package's folder of the metric is."""

REGISTRY = "diffvqa_rt.metrics.registry"
NAME = "toy_luma"


class _Registry(SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        module.METRICS += (NAME,)


class _ToyFinder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name not in FOLDERS and name != REGISTRY:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is not None and name == REGISTRY:
            spec.loader = _Registry(spec.loader.name, spec.loader.path)
        elif spec is not None:
            spec.submodule_search_locations.append(str(FOLDERS[name]))
        return spec


sys.meta_path.insert(0, _ToyFinder())
