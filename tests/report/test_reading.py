"""Results come out of their files as they went in, and a row that is none says why."""

import dataclasses
import json

import pytest

from diffvqa_rt.errors import ReportError
from diffvqa_rt.report.reading import Entry, read_results
from diffvqa_rt.results import PatchMaps, ScoringFailure

MAPS = PatchMaps(parts=("vcg",), scores=[[[[[0.1, 0.2]]]]], weights=[[[[[0.5, 0.5]]]]])


@pytest.fixture
def read(tmp_path):
    """Reads these rows, written as lines of JSON; a text stands for itself."""

    def written(*rows):
        path = tmp_path / "scores.json"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
        return read_results(path)

    return written


def test_lines_of_json_come_back_as_the_results_that_they_were(read, scored):
    scores = [
        scored("a.mp4", warning="it is damaged", prompt="a red fox", parts={"technical": 1.5, "alignment": None}),
        scored("b.webp", patch_maps=MAPS, frame_scores=(50.0,), frame_weights=(1.0,), timestamps_seconds=(0.0,)),
    ]
    failure = ScoringFailure(source="c.mp4", error="c.mp4 is no video")
    results = read(*(one.as_dict() for one in scores), "", failure.as_dict())
    assert results.entries == tuple(Entry(id=None, score=score) for score in scores)
    assert results.failures == (failure,) and results.problems == ()


def test_what_a_later_version_adds_is_passed_over(read, scored):
    assert read({**scored().as_dict(), "new": [1]}).entries == (Entry(id=None, score=scored()),)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"score": "high"}, "score is 'high'; expected a finite number"),
        ({"score": float("nan")}, "score is nan; expected a finite number"),
        ({"is_trained": 1}, "is_trained is 1; expected true or false"),
        ({"source": None}, "source is None; expected a text"),
        ({"video": []}, "video is []; expected an object"),
        ({"score_range": [0.0]}, "score_range has 1 values; expected 2"),
        ({"score_range": [1.0, 1.0]}, "score_range is [1.0, 1.0]; expected its low end first"),
        ({"frame_scores": [1.0]}, "frame_scores has 1 values; expected 4, as timestamps_seconds"),
        ({"frame_scores": [1.0, 2.0, 3.0, "x"]}, "frame_scores[3] is 'x'; expected a finite number"),
        ({"warnings": [{"code": "x"}]}, "it has no warnings[0].message"),
        ({"patch_maps": {"parts": ["vcg"], "scores": [[1]], "weights": [[1]]}}, "expected five axes"),
        ({"patch_maps": {"parts": ["vcg"], "scores": [[1], 2], "weights": 1}}, "patch_maps are not arrays of numbers"),
    ],
)
def test_a_row_that_is_no_result_is_left_out_and_says_why(read, scored, changes, sentence):
    results = read(scored("a.mp4").as_dict(), {**scored().as_dict(), **changes}, scored("c.mp4").as_dict())
    assert [entry.score.source for entry in results.entries] == ["a.mp4", "c.mp4"]
    (problem,) = results.problems
    assert problem.startswith("line 2 of ") and sentence in problem


@pytest.mark.parametrize("line", ["{", "[1]", "7", "[" * 100_000, '{"score": 1}'])
def test_a_line_that_is_no_row_is_left_out(read, line):
    results = read(line)
    assert results.entries == () and len(results.problems) == 1


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ReportError, match="nothing.json cannot be read"):
        read_results(tmp_path / "nothing.json")
    with pytest.raises(ReportError, match=r"has no \.parquet file|needs pyarrow"):
        read_results(tmp_path)


def test_a_catalogues_parquet_reads_like_json(tmp_path, scored):
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    scores = [scored("a.mp4", parts={"technical": 1.5}), scored("b.mp4", prompt="a red fox", parts={"technical": 2.5})]
    names = [field.name for field in dataclasses.fields(scores[0])]
    rows = [{"id": f"id-{i}", **one.as_dict(), "error": None} for i, one in enumerate(scores)]
    rows.append({"id": "id-2", **dict.fromkeys(names), "source": "c.mp4", "error": "c.mp4 is no video"})
    maps = {name: pa.map_(pa.string(), pa.float64()) for name in ("parts", "raw_parts", "stage_seconds")}
    columns = {name: pa.array([row[name] for row in rows], maps.get(name)) for name in rows[0]}
    folder = tmp_path / "scores" / "scorer=3f2a"
    folder.mkdir(parents=True)
    parquet.write_table(pa.table(columns), folder / "0b71.parquet")
    (folder / "torn.txt").write_text("x")
    results = read_results(tmp_path / "scores")
    assert results.entries == tuple(Entry(id=f"id-{i}", score=score) for i, score in enumerate(scores))
    assert results.failures == (ScoringFailure(source="c.mp4", error="c.mp4 is no video"),)
    (folder / "0c.parquet").write_bytes(b"PAR1")
    with pytest.raises(ReportError, match=r"0c\.parquet cannot be read as Parquet"):
        read_results(tmp_path / "scores")
