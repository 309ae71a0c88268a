"""The house: which way imports point, read from the sources, and how large its rooms are."""

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"diffvqa_rt": ROOT, "diffvqa_export": ROOT / "export", "diffvqa_kernels": ROOT / "kernels"}
METRIC_FOLDERS = ("diffvqa_rt.metrics", "diffvqa_rt.models", "diffvqa_rt.training", "diffvqa_export")

LAYERS = (
    {"errors", "specs", "forking"},
    {"checks", "extras", "files", "interrupts", "repeats", "standard_output"},
    {"chain", "hub", "sampler", "text", "video", "weights_figures"},
    {"chain_check", "metric"},
    {"metrics", "preparation", "results"},
    {"models", "decoding"},
    {"engines", "sources"},
    {"scoring", "arguments"},
    {"batch", "serving", "evaluation", "plugins", "report"},
    {"capacity", "synthetic"},
    {"training"},
    {"commands"},
    {"cli"},
)
"""The modules and folders of `diffvqa_rt/` from the ground up: imports go down, and never to the room next door."""

LARGEST_FOLDER = 0.15
DRAWS_DIFFVQA = "diffvqa_rt.commands.diagnose"
"""It draws what DiffVQA has learned, and no other metric yet."""


def sources() -> dict[str, Path]:
    """Each module's file by the module's name."""
    files = {}
    for package, base in PACKAGES.items():
        for path in (base / package).rglob("*.py"):
            *folders, name = path.relative_to(base).with_suffix("").parts
            files[".".join(folders if name == "__init__" else [*folders, name])] = path
    return files


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run, those inside of functions too: not what is there for a type checker alone."""
    for node in ast.iter_child_nodes(tree):
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for part in node.orelse if is_for_types else [node]:
            yield part
            yield from running(part)


def imported(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    for node in running(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by dots"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in modules else str(node.module)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Each module of ours, and those of ours that it imports."""
    modules = sources()
    return {name: {other for other in imported(path, modules) if other in modules} for name, path in modules.items()}


def edges(graph: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    return ((name, other) for name, others in graph.items() for other in others)


def room(module: str) -> str:
    """The module, or the folder, of `diffvqa_rt/` that a module is in."""
    return module.split(".")[1]


def metric_of(module: str) -> str | None:
    """The metric whose folder a module is in."""
    for folder in METRIC_FOLDERS:
        inside = module.removeprefix(f"{folder}.").partition(".")[0]
        if module.startswith(f"{folder}.") and (ROOT / "diffvqa_rt" / "metrics" / inside).is_dir():
            return inside
    return None


def test_the_graph_is_that_of_the_sources(graph):
    assert "diffvqa_rt.specs" in graph["diffvqa_rt.chain"]
    assert "diffvqa_rt.commands" in graph["diffvqa_rt.cli"]  # from inside a function
    assert "diffvqa_export.metric_export" not in graph["diffvqa_export.registry"]  # for types alone
    assert "diffvqa_rt.metrics.diffvqa.engines" in graph["diffvqa_rt.metrics.diffvqa.metric"]
    assert metric_of("diffvqa_export.diffvqa.stages") == "diffvqa" and metric_of("diffvqa_export.build") is None


def test_no_circle_exists(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' ← '.join(error.args[1])}")


def test_imports_go_down(graph):
    heights = {name: height for height, names in enumerate(LAYERS) for name in names}
    ours = {module: others for module, others in graph.items() if module.startswith("diffvqa_rt.")}
    assert {room(module) for module in ours} == heights.keys()
    up = [
        f"{module} → {other}"
        for module, other in edges(ours)
        if other in ours and room(module) != room(other) and heights[room(other)] >= heights[room(module)]
    ]
    assert not up


def test_packages_import_one_way(graph):
    found = {(module.split(".")[0], other.split(".")[0]) for module, other in edges(graph)}
    assert {pair for pair in found if len(set(pair)) == 2} == {
        ("diffvqa_export", "diffvqa_rt"),
        ("diffvqa_export", "diffvqa_kernels"),
        ("diffvqa_rt", "diffvqa_kernels"),
    }
    ours = (
        edge for edge in edges(graph) if edge[0].startswith("diffvqa_rt.") and edge[1].startswith("diffvqa_kernels")
    )
    assert {room(module) for module, _ in ours} == {"models"}


def test_a_metric_is_known_in_its_folders_alone(graph):
    """Registries import it by its name, which is no import statement."""
    strangers = {
        f"{module} → {other}"
        for module, other in edges(graph)
        if metric_of(other) not in (None, metric_of(module)) and module != DRAWS_DIFFVQA
    }
    assert not strangers


def test_no_folder_is_the_house():
    lines: Counter[Path] = Counter()
    for path in (ROOT / "diffvqa_rt").rglob("*.py"):
        lines[path.parent] += len(path.read_text(encoding="utf-8").splitlines())
    (folder, most), *_ = lines.most_common()
    assert most < LARGEST_FOLDER * lines.total(), f"{folder} has {most} of {lines.total()} lines"
