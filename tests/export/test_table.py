"""The table of backends, which the export and the runtime both read."""

import ast
import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest
from diffvqa_export.backends.table import builder_of
from diffvqa_export.context import BuildRequest
from diffvqa_export.weights import random_weights

from diffvqa_rt.engines import open_backend
from diffvqa_rt.engines.backends import BACKENDS
from diffvqa_rt.errors import EngineBuildError, EngineMismatchError
from diffvqa_rt.extras import needs_package
from diffvqa_rt.metrics.diffvqa.presets import TINY


def names_in(module):
    """The functions and constants of a module, which is not imported: its runtime may not be installed."""
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text())
    targets = [target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return {*targets, *(node.name for node in tree.body if isinstance(node, ast.FunctionDef))}


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=list(BACKENDS))
def test_a_row_names_functions_that_there_are(backend):
    for reference in (backend.opener, backend.builder):
        module, _, function = reference.partition(":")
        assert function in names_in(module)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_package_that_is_missing_is_named_with_what_installs_it(name, tmp_path, clip, monkeypatch):
    needs_more = dataclasses.replace(BACKENDS[name], opener="no_such_package:open", builder="no_such_package:build")
    monkeypatch.setitem(BACKENDS, name, needs_more)
    sentence = re.escape(needs_package(f"the {name} backend", "no_such_package", needs_more.extra))
    request = BuildRequest(weights=random_weights(TINY), backends=(name,), out=tmp_path / "out", clip=clip)
    with pytest.raises(EngineBuildError, match=sentence):
        builder_of(name, request)
    with pytest.raises(EngineMismatchError, match=sentence):
        open_backend(name, tmp_path, None, None, threads=1)
