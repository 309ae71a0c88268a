"""The page that `benchmarks/report.py` writes from results."""

import json
import re
from xml.etree import ElementTree

import pytest
import report
from measured import read_groups, without_baseline
from ratios import readable

RESULTS = report.ROOT / "benchmarks" / "results"
NUMBERS = f"# A project\n\n{report.BEGIN}\n{report.END}\n\nThe rest.\n"
GROUP = "score: a file of 5 s and 720×480, decoded and scored, tiny, float32"


def row(group, provider, seconds, **extra):
    extra = {"provider": provider, "baseline": False} | extra
    stats = {"median": seconds, "rounds": 5}
    return {"name": f"test_it[{provider}]", "group": group, "extra_info": extra, "stats": stats}


def rows_of_a_group(ours, theirs):
    return [
        row(GROUP, "onnxruntime", ours, speedup_over_pytorch=1.5, peak_memory_mib=1234.5),
        row(GROUP, "pytorch", theirs, baseline=True),
    ]


def measured(rows, date="2026-11-21T10:00:00+00:00", commit="a" * 40, gpu=None):
    return {
        "machine_info": {
            "cpu": {"brand_raw": "Abacus", "count": 2}, "gpu": gpu, "date": date, "versions": {"torch": "2.13.0"},
        },
        "commit_info": {"id": commit, "dirty": False},
        "run_seconds": 605,
        "benchmarks": rows,
    }  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """A repository with one file of results, and one that is not pytest-benchmark's."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "numbers.md").write_text(NUMBERS)
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (tmp_path / "benchmarks" / "cited.json").write_text(
        json.dumps({"note": "Theirs.", "figures": [], "without_figures": []})
    )
    (results / "2026-11-21-abacus.json").write_text(json.dumps(measured(rows_of_a_group(1.2, 1.8))))
    (results / "2026-11-21-abacus-soak.json").write_text(json.dumps({"answers": 429}))
    return tmp_path


def add(root, name, content):
    (root / "benchmarks" / "results" / name).write_text(json.dumps(content))


def page(root):
    return (root / "benchmarks" / "REPORT.md").read_text()


def test_a_group_is_a_table_with_its_ratio_its_memory_and_where_it_comes_from(root):
    assert report.main([], root) == 0
    text = page(root)
    assert "## Abacus, 2 cores" in text
    assert "abacus.json`](results/2026-11-21-abacus.json): 2026-11-21, in 10 min 5 s, commit aaaaaaa; torch" in text
    assert "| onnxruntime | 1.20 s | 1.5 x pytorch | 1,234 MiB |" in text
    assert "| pytorch | 1.80 s | baseline |" in text


def test_the_page_of_numbers_gets_a_line_a_group_where_it_comes_from_and_keeps_the_rest(root):
    assert report.main([], root) == 0
    text = (root / "docs" / "numbers.md").read_text()
    assert "\nAbacus, 2 cores:\n" in text
    assert f"| {GROUP} | onnxruntime: 1.20 s | pytorch: 1.80 s | 1.5 x pytorch |" in text
    file = "[`2026-11-21-abacus.json`](../benchmarks/results/2026-11-21-abacus.json)"
    assert f"* {file}: 2026-11-21, in 10 min 5 s, commit aaaaaaa; torch 2.13.0.\n" in text
    assert text.startswith("# A project\n") and text.endswith("\n\nThe rest.\n")
    again = text
    assert report.main([], root) == 0
    assert (root / "docs" / "numbers.md").read_text() == again


def test_of_a_group_the_newest_run_counts_and_another_machine_is_another_section(root):
    later = measured(rows_of_a_group(0.9, 1.7), date="2026-11-22T10:00:00+00:00", commit="b" * 40)
    other = measured(rows_of_a_group(0.1, 0.7), gpu="A GPU")
    add(root, "2026-11-20-misnamed.json", later)
    add(root, "2026-11-21-gpu.json", other)
    assert report.main([], root) == 0
    text = page(root)
    assert "900 ms" in text and "1.20 s" not in text and "aaaaaaa" not in text.partition("## Abacus, 2 cores")[2]
    assert "## A GPU, Abacus, 2 cores" in text and "100 ms" in text
    assert (root / "benchmarks" / "report-2-speedups.svg").exists()


def roofline_rows(stage, seconds):
    group = f"roofline: {stage} of one video, tiny, float32"
    work = {"flops": 10**9, "bytes": 10**7}
    return [
        row(group, "matrix_product", 0.1, baseline=True, flops_per_second=2e11, share_of_matrix_product=1.0),
        row(group, "copy", 0.1, baseline=True, bytes_per_second=1e10, share_of_copy=1.0),
        row(group, "onnxruntime", seconds, flops_per_second=1e9 / seconds, share_of_matrix_product=0.25, **work),
    ]


def scaled_rows(provider, power):
    group = "scaling: one denoising step of N frames, tiny, float32"
    return [row(group, provider, 0.1 * n**power, axis="N", value=n) for n in (1, 2, 4)]


def words(path):
    return " ".join(ElementTree.parse(path).getroot().itertext())


def test_charts_show_every_ratio_share_and_exponent_and_are_the_same_each_time(root):
    rows = [*rows_of_a_group(1.2, 1.8), *roofline_rows("head", 0.02), *scaled_rows("onnxruntime", 1.0)]
    add(root, "2026-11-21-abacus.json", measured(rows))
    assert report.main([], root) == 0
    charts = {path.stem: path for path in (root / "benchmarks").glob("*.svg")}
    assert set(charts) == {"report-1-speedups", "report-1-roofline", "report-1-scaling"}
    assert all(f"]({path.name})" in page(root) for path in charts.values())
    assert "1.5×" in words(charts["report-1-speedups"]) and GROUP in words(charts["report-1-speedups"])
    assert "onnxruntime: 25.0%" in words(charts["report-1-roofline"])
    assert "200 GFLOP/s" in words(charts["report-1-roofline"])
    assert "onnxruntime ∝ 1.00" in words(charts["report-1-scaling"])
    before = {name: path.read_bytes() for name, path in charts.items()}
    assert report.main([], root) == 0
    assert {name: path.read_bytes() for name, path in charts.items()} == before


def test_cited_figures_are_marked_as_such(root):
    figure = {"name": "DOVER", "figure": 282, "unit": "GFLOP", "what": "one video", "source": "its paper, table 9"}
    silent = {"name": "Mute", "what": "no time is printed", "source": "its paper"}
    cited = {"note": "Theirs, not ours.", "figures": [figure], "without_figures": [silent]}
    (root / "benchmarks" / "cited.json").write_text(json.dumps(cited))
    assert report.main([], root) == 0
    _, _, section = page(root).partition("## Cited, not measured")
    assert "| DOVER | 282 GFLOP | one video | its paper, table 9 |" in section
    assert "Theirs, not ours." in section and "* Mute: no time is printed (its paper)." in section


def test_a_check_names_what_is_stale_and_writes_nothing(root, capsys):
    assert report.main(["--check"], root) == 1
    assert "numbers.md is not what benchmarks/results says" in capsys.readouterr().err
    assert report.main([], root) == 0 == report.main(["--check"], root)
    add(root, "2026-11-21-abacus.json", measured(rows_of_a_group(1.3, 1.8)))
    written = page(root)
    assert report.main(["--check"], root) == 1
    assert re.findall(r"report: (\S+) is not", capsys.readouterr().err) == ["REPORT.md", "numbers.md"]
    assert page(root) == written


@pytest.mark.parametrize("content", ["{", json.dumps({"benchmarks": [{"name": "x"}], "machine_info": {}})])
def test_results_that_cannot_be_read_are_named(root, capsys, content):
    (root / "benchmarks" / "results" / "broken.json").write_text(content)
    assert report.main([], root) == 1
    assert "broken.json is not what pytest-benchmark writes" in capsys.readouterr().err


def test_a_page_without_the_marks_is_left_alone(root, capsys):
    (root / "docs" / "numbers.md").write_text("# Nothing here\n")
    assert report.main([], root) == 1
    assert "docs/numbers.md lacks '<!-- benchmarks/report.py writes from here -->'" in capsys.readouterr().err
    assert (root / "docs" / "numbers.md").read_text() == "# Nothing here\n"


def test_every_group_that_was_measured_can_be_read():
    groups = read_groups(RESULTS)
    assert groups and all(row["median"] > 0 for group in groups for row in group.rows)


def test_every_group_that_was_measured_has_its_baseline():
    assert without_baseline(read_groups(RESULTS)) == []


def test_a_group_without_a_baseline_is_named(root):
    add(root, "2026-11-21-old.json", measured([{**row("old", "onnxruntime", 1.0), "extra_info": {}}]))
    add(root, "2026-11-21-alone.json", measured([row("alone", "onnxruntime", 1.0)]))
    assert without_baseline(read_groups(root / "benchmarks" / "results")) == ["alone"]


def test_the_page_of_numbers_says_what_the_results_say():
    text = (report.ROOT / "docs" / "numbers.md").read_text(encoding="utf-8")
    assert report.with_headlines(text, read_groups(RESULTS)) == text


def test_readmes_line_of_numbers_is_of_the_results():
    """The group's newest run: both times, the commit and the version."""
    (group,) = (group for group in read_groups(RESULTS) if group.name == GROUP)
    (ours,) = (row for row in group.rows if row["extra_info"]["provider"] == "onnxruntime")
    text = " ".join((report.ROOT / "README.md").read_text(encoding="utf-8").split())
    faster = f"{ours['extra_info']['speedup_over_pytorch']:.3g} times as fast as PyTorch"
    for fact in (readable(ours["median"]), faster, group.run.commit, group.run.versions["onnxruntime"]):
        assert fact in text


def test_results_that_pages_name_are_there():
    pages = [report.ROOT / "README.md", *(report.ROOT / "docs").glob("*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    named = set(re.findall(r"\d{4}-\d\d-\d\d-[\w-]+\.json", text))
    assert named and named <= {path.name for path in RESULTS.iterdir()}
