"""The site of docs/: it builds without a warning, and its pages take nothing from elsewhere."""

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from shell_blocks import ROOT

import diffvqa_rt
from diffvqa_rt import serving

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "mkdocstrings")),
    reason="mkdocs-material and mkdocstrings are not installed: pip install -c constraints.txt -e '.[docs]'",
)
# What a browser fetches by itself; a link to click is no such thing.
FETCHED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=\"?((?:https?:)?//[^\" >]+)")
IN_STYLES = re.compile(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: what is not said is not counted either.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    nowhere = "http://127.0.0.1:9"  # no port is open there: a build that fetches something fails
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "http_proxy": nowhere, "https_proxy": nowhere}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def test_every_page_is_there(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    elsewhere = {"index", "model-card", "benchmarks", "measurements", "contributing", "changelog", "security", "404"}
    assert {path.stem for path in site.glob("*.html")} == pages | elsewhere


def test_pages_fetch_nothing_from_elsewhere(site):
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert FETCHED.findall(text) == [] == IN_STYLES.findall(text), page.name
        # For such a block the theme would fetch a script.
        assert "mermaid" not in text, page.name
    for style in site.rglob("*.css"):
        assert IN_STYLES.findall(style.read_text(encoding="utf-8")) == [], style.name


def test_what_would_be_fetched_is_found():
    assert FETCHED.findall('<script async src="https://a.example/b.js">') == ["https://a.example/b.js"]
    assert FETCHED.findall('<a href="https://a.example/">') == []
    assert IN_STYLES.findall("@import url(//fonts.example/x)") == ["//fonts.example/x"]


@pytest.mark.parametrize("module", [diffvqa_rt, serving], ids=lambda module: module.__name__)
def test_the_reference_has_every_public_name(site, module):
    headings = set(re.findall(r'id="diffvqa_rt\.(?:\w+\.)*(\w+)"', (site / "api.html").read_text(encoding="utf-8")))
    assert set(module.__all__) - {"__version__"} <= headings


def test_links_out_of_docs_lead_to_the_sites_page_or_are_text():
    turned = runpy.run_path(str(ROOT / "docs" / "pages_elsewhere.py"))["with_links_of_the_site"]
    assert turned("[a](docs/scoring.md#crops)", "index.md") == "[a](scoring.md#crops)"
    assert turned("[a](../CONTRIBUTING.md)", "limits.md") == "[a](contributing.md)"
    assert turned("[`a`](results/)", "measurements.md") == "`a`"
    assert turned("![a](report-1-scaling.svg)", "measurements.md") == "![a](report-1-scaling.svg)"
    assert turned("[a](https://a.example/b.md)", "limits.md") == "[a](https://a.example/b.md)"
    # What is nowhere stays, for mkdocs to refuse.
    assert turned("[a](../nowhere.md)", "limits.md") == "[a](../nowhere.md)"
