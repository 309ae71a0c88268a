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
    "security.md": "SECURITY.md",
}
CHARTS = {path.name: f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("report-*.svg")}
_NAMES = {source: name for name, source in (PAGES | CHARTS).items()}
_LINK = re.compile(r"(!?\[((?:[^\[\]]|\[[^\]]*\])+)\])\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of docs/, the pages of elsewhere and the report's charts."""
    for name, source in (PAGES | CHARTS).items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    return with_links_of_the_site(markdown, page.file.src_uri)


def with_links_of_the_site(markdown: str, page: str) -> str:
    """A page with its links, which hold in the repository, turned to the site's pages.

    Of a link to a file that is no page the text stays. A link to nowhere stays as it is, for mkdocs to refuse.
    """
    folder = posixpath.dirname(PAGES.get(page, f"docs/{page}"))

    def turned(link: re.Match[str]) -> str:
        shown, text, target = link.groups()
        path, hash_sign, anchor = target.partition("#")
        if "://" in target or not path:
            return link[0]
        place = posixpath.normpath(posixpath.join(folder, path))
        name = _NAMES.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else None)
        if name is not None:
            return f"{shown}({name}{hash_sign}{anchor})"
        return text if (ROOT / place).exists() else link[0]

    return _LINK.sub(turned, markdown)
