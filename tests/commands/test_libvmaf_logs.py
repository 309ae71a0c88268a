"""`--format vmaf-json`, `vmaf-xml` and `vmaf-csv`: the layouts of logs that libvmaf itself writes."""

import csv
import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest
from clips import make_clip
from ffmpeg import SCENE
from ffmpeg import ffmpeg as run_ffmpeg
from instant_engines import instant_engines

from diffvqa_rt import Scorer, cli
from diffvqa_rt.arguments import UsageError
from diffvqa_rt.commands.libvmaf_logs import check_libvmaf_format, libvmaf_log, pooled_scores
from diffvqa_rt.metrics.diffvqa.metric import METRIC

FORMATS = ("json", "xml", "csv")


@pytest.fixture(scope="module")
def real_logs(ffmpeg, tmp_path_factory):
    """libvmaf's logs of every other one of five frames, by format."""
    folder = tmp_path_factory.mktemp("logs")
    for name in FORMATS:
        measured = (
            f"libvmaf=log_fmt={name}:log_path={folder / name}:n_subsample=2:feature=name=psnr\\\\:enable_apsnr=true"
        )
        blurred = "gblur=sigma=2:enable='lt(n,3)'"
        filters = f"{SCENE},trim=end_frame=5,split[a][b];[b]{blurred}[c];[c][a]{measured}"
        run_ffmpeg("-filter_complex", filters, "-f", "null", "-")
    return {name: (folder / name).read_text() for name in FORMATS}


@pytest.fixture
def log_of(manifest, capsys, tmp_path, monkeypatch):
    """The log that `diffvqa score` writes of a clip of 24 frames, and the result that it is of."""
    monkeypatch.setattr(Scorer, "open", lambda folder, **options: Scorer(manifest, instant_engines(), "onnx"))
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(make_clip(size=(200, 196)))

    def write(name):
        assert cli.main(["score", "--format", name, str(clip)]) == 0
        return capsys.readouterr().out

    return lambda name: (write(name), json.loads(write("json")))


def shape(text: str) -> str:
    """A log's text without its version and values; of a number stays how many decimals it has."""
    text = re.sub(r"(?<=\"version\": \")[^\"]+", "V", text)
    return re.sub(r"-?\d+(\.(?P<decimals>\d+))?", lambda found: f"N.{len(found['decimals'] or '')}", text)


def test_json_nests_as_libvmafs_and_prints_as_many_digits(log_of, real_logs):
    written, result = log_of("vmaf-json")
    ours, real = json.loads(written), json.loads(real_logs["json"])
    assert list(ours) == list(real)
    assert [list(frame) for frame in ours["frames"]] == [list(real["frames"][0])] * 8
    assert list(ours["pooled_metrics"]["diffvqa"]) == list(real["pooled_metrics"]["vmaf"])
    assert type(real["aggregate_metrics"]["apsnr_y"]) is float  # a value that is of the whole video
    assert ours["aggregate_metrics"] == {"diffvqa": pytest.approx(result["score"], abs=1e-6)}

    def only_vmaf(log):
        """libvmaf's text, with `vmaf` as its one metric and its one aggregate, and one frame."""
        log = re.sub(r"\n +\"(integer|VMAF|psnr|apsnr_c)\w+\": [\d.]+,?(?=\n)", "", log)
        return re.sub(r"\n    \"(integer|VMAF|psnr)\w+\": \{[^}]*\},?", "", log)

    one_frame = r"(?s)(\n    \{\n      \"frameNum\".*?\n    \})(,\n    \{\n      \"frameNum.*?\n    \})*(?=\n  \])"
    expected = re.sub(one_frame, r"\1", only_vmaf(real_logs["json"])).replace("apsnr_y", "vmaf")
    expected = re.sub(r",(?=\n +\})", "", expected)
    assert shape(re.sub(one_frame, r"\1", written).rstrip()) == shape(expected.replace("vmaf", "diffvqa").rstrip())


def test_xml_has_libvmafs_elements_and_attributes(log_of, real_logs):
    written, result = log_of("vmaf-xml")
    ours, real = ET.fromstring(written), ET.fromstring(real_logs["xml"])

    def tags(element):
        names = [name for name in element.keys() if not re.match("integer|VMAF_|psnr|apsnr_c", name)]  # noqa: SIM118
        return element.tag, [re.sub("apsnr_y|vmaf|diffvqa", "METRIC", name) for name in names]

    assert [tags(child) for child in ours] == [tags(child) for child in real]
    assert tags(ours) == tags(real)
    assert {tags(frame)[0] for frame in ours.find("frames")} == {"frame"}
    assert tags(ours.find("frames/frame"))[1] == tags(real.find("frames/frame"))[1]
    assert tags(ours.find("pooled_metrics/metric")) == tags(real.find("pooled_metrics/metric[@name='vmaf']"))
    assert (ours.find("params").get("qualityWidth"), ours.find("params").get("qualityHeight")) == ("200", "196")
    assert float(ours.find("aggregate_metrics").get("diffvqa")) == pytest.approx(result["score"], abs=1e-6)


def test_csv_has_libvmafs_header_and_its_comma_at_the_end(log_of, real_logs):
    written, result = log_of("vmaf-csv")
    ours, real = list(csv.reader(written.splitlines())), list(csv.reader(real_logs["csv"].splitlines()))
    assert ours[0] == ["Frame", "diffvqa", ""] and (real[0][0], real[0][-2:]) == ("Frame", ["vmaf", ""])
    assert [row[-1] for row in real] == [""] * 4
    assert [float(row[1]) for row in ours[1:]] == pytest.approx(result["frame_scores"], abs=1e-6)


def test_frames_have_their_numbers_in_the_video_as_with_subsampling(log_of, real_logs):
    numbers = [frame["frameNum"] for frame in json.loads(log_of("vmaf-json")[0])["frames"]]
    assert numbers == [1, 4, 7, 10, 13, 16, 19, 22]  # at the centres of eight spans of 24 frames
    assert [frame["frameNum"] for frame in json.loads(real_logs["json"])["frames"]] == [0, 2, 4]


def test_pooled_values_are_computed_as_libvmaf_computes_them(real_logs):
    real = json.loads(real_logs["json"])
    for name in ("vmaf", "integer_motion2", "psnr_y"):
        scores = [frame["metrics"][name] for frame in real["frames"]]
        assert pooled_scores(scores) == pytest.approx(real["pooled_metrics"][name], abs=2e-6), name


def test_a_frame_that_stands_for_several_samples_appears_once(manifest, tmp_path):
    (tmp_path / "short.mp4").write_bytes(make_clip(size=(200, 196), frames=2))
    with Scorer(manifest, instant_engines(), "onnx") as scorer:
        result = scorer.score(tmp_path / "short.mp4")
    log = libvmaf_log(dataclasses.replace(result, frame_scores=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)))
    assert log.frames == {0: 2.5, 1: 6.5} and log.pooled["mean"] == 4.5


def test_a_log_is_of_one_video(log_of, capsys, clip):
    assert cli.main(["score", "--format", "vmaf-json", str(clip), str(clip)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].endswith("a log of libvmaf is of one video; run the command once a video")


def test_a_failure_is_a_sentence_and_no_log(log_of, capsys, tmp_path):
    assert cli.main(["score", "--format", "vmaf-json", str(tmp_path / "missing.mp4")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "missing.mp4 cannot be read" in err


def test_a_metric_without_scores_of_frames_has_no_log():
    curveless = dataclasses.replace(METRIC, results=lambda config, chain: (SimpleNamespace(name="score"),))
    with pytest.raises(UsageError, match="diffvqa gives no scores of frames; use --format json"):
        check_libvmaf_format("vmaf-csv", curveless, 1)
    check_libvmaf_format("csv", curveless, 2)
