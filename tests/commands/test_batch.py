"""`diffvqa batch` where its packages are not installed; what it does with them is in `tests/batch/`."""

import importlib.util

from diffvqa_rt import cli
from diffvqa_rt.extras import needs_package


def test_without_its_extra_it_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["batch", str(tmp_path), "--out", str(tmp_path / "scores")]) == 1
    assert capsys.readouterr().err == f"diffvqa: {needs_package('diffvqa batch', 'fsspec', 'batch')}\n"
