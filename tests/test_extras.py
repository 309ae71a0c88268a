"""The extras of pyproject.toml: each is known, and the command for one installs it from where this package came."""

import json
import re
import shutil
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions
from pathlib import Path

import pytest

from diffvqa_rt import extras
from diffvqa_rt.extras import EXTRAS, Extra, install_command, is_installed, needs_package, pip_command

ROOT = Path(__file__).parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
REQUIRES = ["numpy>=1.26", 'tritonclient[grpc]>=2.60; extra == "serve"', 'jinja2>=3.1; extra == "serve-more"']


def distributions(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\[><=;]", line)[0]) for line in requirements}


def normal(name: str) -> str:
    """The name of a distribution as indexes compare it (PEP 503)."""
    return re.sub(r"[._-]+", "-", name).lower()


def test_the_extras_are_those_of_pyproject():
    assert EXTRAS.keys() == DECLARED.keys() - {"dev", "docs"}


def test_an_extra_is_looked_for_by_its_packages():
    brought_by = packages_distributions()
    for extra in EXTRAS.values():
        assert len(extra.paths) == len(DECLARED[extra.name])
        for path in extra.paths:
            found = {normal(name) for name in brought_by.get(path.partition("/")[0], ())}
            # What is not installed here cannot be looked up; of ONNX Runtime there is one build at a time.
            assert not found or extra.replaces in found or found & distributions(DECLARED[extra.name]), path


def test_what_is_there_is_found_without_an_import(tmp_path, monkeypatch):
    (tmp_path / "spacious_package" / "inner").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert is_installed("spacious_package") and is_installed("spacious_package/inner")
    assert not is_installed("spacious_package/other") and not is_installed("no_such_package/inner")
    assert "spacious_package" not in sys.modules
    assert Extra("x", "", ("spacious_package", "no_such_package")).missing() == ["no_such_package"]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Lets this package be installed in another way, and pip be at hand: from what `direct_url.json` says, if any."""

    class Distribution:
        requires = REQUIRES
        origin: dict | None = None

        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if self.origin is None else json.dumps(self.origin)

    def install(origin: dict | None) -> None:
        distribution = Distribution()
        distribution.origin = origin
        monkeypatch.setattr(extras, "distribution", lambda name: distribution)

    monkeypatch.setattr(extras, "_TREE", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: str(Path(sys.executable).with_name(name)))
    return install


def test_in_a_checkout_the_checkout_is_installed(installed, tmp_path):
    (tmp_path / "pyproject.toml").touch()
    assert install_command("serve") == f"pip install -e '{tmp_path}[serve]'"


def test_a_package_of_an_index_is_installed_by_its_name(installed):
    installed(None)
    assert install_command("serve") == "pip install 'diffvqa-rt[serve]'"
    assert install_command("gpu") == "pip uninstall onnxruntime; pip install 'diffvqa-rt[gpu]'"


def test_a_wheel_or_a_folder_is_installed_again_from_there(installed, tmp_path):
    wheel = tmp_path / "diffvqa_rt-0.1.0-py3-none-any.whl"
    wheel.touch()
    installed({"url": wheel.as_uri(), "archive_info": {}})
    assert install_command("serve") == f"pip install 'diffvqa-rt[serve] @ {wheel.as_uri()}'"


def test_a_commit_is_installed_again(installed):
    installed({"url": "https://git.example/a/b.git", "vcs_info": {"vcs": "git", "commit_id": "0a1b"}})
    assert install_command("serve") == "pip install 'diffvqa-rt[serve] @ git+https://git.example/a/b.git@0a1b'"


def test_where_the_sources_are_gone_the_extras_own_packages_are_installed(installed, tmp_path):
    installed({"url": (tmp_path / "gone").as_uri(), "dir_info": {}})
    assert install_command("serve") == "pip install 'tritonclient[grpc]>=2.60'"


def test_a_package_that_is_not_installed_has_its_name_alone(installed, monkeypatch):
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "distribution", absent)
    assert install_command("serve") == "pip install 'diffvqa-rt[serve]'"


def test_pip_changes_the_python_that_runs(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/elsewhere/bin/pip")
    assert pip_command("install", "x>=1") == f"{sys.executable} -m pip install 'x>=1'"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert pip_command("install", "x") == f"{sys.executable} -m pip install x"
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    assert pip_command("install", "x") == f"uv pip install --python {sys.executable} x"


def test_the_sentence_names_the_package_and_the_command():
    sentence = needs_package("the client", "tritonclient.grpc", "serve")
    assert sentence == f"the client needs tritonclient, which is not installed: {install_command('serve')}"


def test_no_other_module_spells_the_command():
    sources = [path for folder in ("diffvqa_rt", "export", "triton_repo") for path in (ROOT / folder).rglob("*.py")]
    spelled = [path for path in sources if re.search(r"pip3? install|diffvqa-rt\[", path.read_text(encoding="utf-8"))]
    assert spelled == [ROOT / "diffvqa_rt" / "extras.py"]
