"""The site's pages that are files outside of docs/: mkdocs calls these functions (`hooks` in mkdocs.yml)."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Each page's name in the site, and its file in the repository.
PAGES = {
    "index.md": "README.md",
    "model-card.md": "diffvqa_rt/weights/README.md",
    "benchmarks.md": "benchmarks/README.md",
    "measurements.md": "benchmarks/REPORT.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of docs/, the pages of elsewhere and the report's charts."""
    charts = {path.name: f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("report-*.svg")}
    for name, source in (PAGES | charts).items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links, which hold in the repository, turned to the site's pages."""
    source = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return _LINK.sub(lambda link: _in_the_site(link, posixpath.dirname(source)), markdown)


def _in_the_site(link: re.Match[str], folder: str) -> str:
    """A link to a page of the site; of a file that is none, the text alone. What is nowhere is left for mkdocs to refuse."""
    mark, text, target = link.groups()
    path, anchor = (*target.split("#", 1), "")[:2]
    if "://" in target or not path:
        return link[0]
    place = posixpath.normpath(posixpath.join(folder, path))
    names = {source: name for name, source in PAGES.items()}
    if place in names or place.startswith("docs/") or mark:
        name = names.get(place) or (posixpath.basename(place) if mark else place.removeprefix("docs/"))
        return f"{mark}[{text}]({name}{'#' + anchor if anchor else ''})"
    return text if (ROOT / place).exists() else link[0]
