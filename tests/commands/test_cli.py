"""`diffvqa` as a user meets it: results on stdout, sentences on stderr, an honest exit status."""

import csv
import dataclasses
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from clips import make_clip
from instant_engines import instant_engines
from PIL import Image
from training_network import SMALLEST

from diffvqa_rt import Scorer, cli
from diffvqa_rt.decoding import IsolatedDecoder
from diffvqa_rt.errors import ScoreWarning
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.results import csv_columns


@pytest.fixture
def diffvqa(small_engines, capsys):
    """Runs `diffvqa score --engines … ARGS` in this process; returns (status, stdout, stderr)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        status = cli.main(["score", "--engines", str(small_engines), *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def test_json_has_an_object_a_line_in_input_order(diffvqa, clip, tmp_path):
    (tmp_path / "other.mp4").write_bytes(make_clip(size=(200, 200)))
    status, out, err = diffvqa("--format", "json", "--batch", "2", tmp_path / "other.mp4", clip)
    first, second = map(json.loads, out.splitlines())
    assert status == 0
    assert (first["source"], second["source"]) == (str(tmp_path / "other.mp4"), str(clip))
    assert {"score", "frame_scores", "stage_seconds", "weights_sha256", "video", "is_trained"} <= first.keys()
    assert set(first["stage_seconds"]) == {"decode", "views", "vae_encoder", "denoise", "head"}
    assert first["is_trained"] and "untrained" not in err


def test_csv_and_table_carry_the_same_score(diffvqa, clip):
    score = json.loads(diffvqa("--format", "json", clip)[1])["score"]
    (row,) = csv.DictReader(io.StringIO(diffvqa("--format", "csv", clip)[1]))
    assert tuple(row) == csv_columns(METRIC.stages)
    assert float(row["score"]) == score and row["model"] == "tiny, 2 steps" and row["error"] == ""
    assert (
        row["codec"] == "h264"
        and float(row["denoise_seconds"]) > 0
        and len(row["frame_scores"].split()) == SMALLEST.frames
    )
    header, line = diffvqa(clip)[1].splitlines()
    assert header.split() == ["score", "spread", "seconds", "model", "video"]
    assert line.split()[0] == f"{score:.3f}"
    assert "  tiny, 2 steps  " in line and line.endswith(str(clip))


def test_scores_of_untrained_weights_say_so(untrained_engines, clip, capsys):
    arguments = ["score", "--engines", str(untrained_engines), "--backend", "torch", str(clip)]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert "tiny, 2 steps (untrained)" in out and "These weights are untrained" in err
    assert cli.main(["info", str(untrained_engines)]) == 0
    assert "tiny, 2 steps (untrained)" in capsys.readouterr().out


def test_a_bad_file_is_reported_and_the_others_are_still_scored(diffvqa, clip, tmp_path):
    status, out, err = diffvqa("--format", "json", tmp_path / "missing.mp4", clip, tmp_path)
    missing, good, folder = map(json.loads, out.splitlines())
    assert status == 1
    assert "score" in good
    assert "missing.mp4 cannot be read" in missing["error"] and "score" not in missing
    assert "is a folder without pictures of its own" in folder["error"]
    assert missing["error"] in err and folder["error"] in err
    table = diffvqa(tmp_path / "missing.mp4")[1].splitlines()
    assert table[1].split() == ["failed", str(tmp_path / "missing.mp4")]
    (row,) = csv.DictReader(io.StringIO(diffvqa("--format", "csv", tmp_path / "missing.mp4")[1]))
    assert row["score"] == "" and "cannot be read" in row["error"]


def write_still(path: Path) -> None:
    Image.new("RGB", (90, 60), (200, 30, 60)).save(path, "PNG")


def write_folder(path: Path) -> None:
    path.mkdir()
    for index in range(3):
        write_still(path / f"{index}.png")


SCORABLE = {
    "frames": write_folder,
    "one_frame.mp4": lambda path: path.write_bytes(make_clip(frames=1)),
    "sixteen.mp4": lambda path: path.write_bytes(make_clip(size=(16, 16))),
    "still.png": write_still,
}


@pytest.mark.parametrize("name", SCORABLE)
def test_small_inputs_are_scored(diffvqa, tmp_path, name):
    SCORABLE[name](tmp_path / name)
    status, out, _ = diffvqa("--format", "json", tmp_path / name)
    assert status == 0
    assert 0 < json.loads(out)["score"] < 100


def audio_only(path: Path) -> None:
    import av
    import numpy as np

    with av.open(path, "w") as output:
        stream = output.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 48000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


UNSCORABLE = {
    "missing.mp4": (lambda path: None, "cannot be read"),
    "empty.mp4": (lambda path: path.write_bytes(b""), "is empty"),
    "text.mp4": (lambda path: path.write_text("Dear diary"), "is not a video"),
    "audio.mp4": (audio_only, "no video stream|has no video"),
    "headless.mp4": (lambda path: path.write_bytes(make_clip()[:600]), "is not a video|cannot|no frame"),
}


@pytest.mark.parametrize("name", UNSCORABLE)
def test_what_is_no_video_gets_one_sentence_and_status_1(diffvqa, tmp_path, name):
    write, sentence = UNSCORABLE[name]
    write(tmp_path / name)
    status, out, err = diffvqa("--format", "json", tmp_path / name)
    error = json.loads(out)["error"]
    assert status == 1
    assert re.search(sentence, error), error
    assert name in error and "\n" not in error and "Traceback" not in err


def test_a_video_whose_end_is_missing_is_scored_by_what_is_left(diffvqa, tmp_path):
    whole = make_clip("libx264", "mp4", frames=60, container_options={"movflags": "faststart"})
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    status, out, _ = diffvqa("--format", "json", tmp_path / "cut.mp4")
    assert status == 0
    assert json.loads(out)["timestamps_seconds"][-1] < 60 / 25


def test_a_changed_byte_in_an_engine_is_refused(engines_copy, clip, capsys):
    file = engines_copy / "onnx" / "unet_controller.onnx"
    content = bytearray(file.read_bytes())
    content[100] ^= 255
    file.write_bytes(content)
    assert cli.main(["score", "--engines", str(engines_copy), str(clip)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "unet_controller.onnx was changed after it was built" in err
    assert cli.main(["info", str(engines_copy)]) == 1


def test_info_prints_the_manifest_for_a_person(built_engines, capsys):
    assert cli.main(["info", str(built_engines)]) == 0
    out = capsys.readouterr().out
    for piece in ("tiny.safetensors", "10 denoising steps", "unet_controller  z_next", "tolerance", "onnxruntime"):
        assert piece in out


def test_a_folder_without_engines_says_what_to_do(tmp_path, capsys):
    assert cli.main(["info", str(tmp_path)]) == 1
    assert "Build one with export/build_engines.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["score"], "VIDEO"),
        (["score", "--crops", "0", "x.mp4"], "'0' is not a whole number from 1"),
        (["score", "--crops", "70000", "x.mp4"], "'70000' is not a whole number from 1 to 65536"),
        (["client", "--url", "h:1", "--crops", "70000", "x.mp4"], "'70000' is not a whole number from 1 to 65536"),
        (["evaluate", "--data", "kvq=x", "--crops", "70000"], "'70000' is not a whole number from 1 to 65536"),
        (["serve", "--max-crops", "70000"], "'70000' is not a whole number from 1 to 65536"),
        (["score", "--threads", str(2**31), "x.mp4"], "is not a whole number from 1 to 65536"),
        (["score", "--seed", "x", "x.mp4"], "'x' is not a whole number from 0"),
        (["score", "--seed", str(2**64), "x.mp4"], "is not a whole number from 0"),
        (["score", "--format", "xml", "x.mp4"], "invalid choice"),
        ([], "COMMAND"),
    ],
)
def test_misuse_is_status_2(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 2
    assert complaint in capsys.readouterr().err


def test_an_argument_that_only_the_callee_refuses_is_status_2(capsys):
    assert cli.main(["serve", "--max-decode-mib", "100"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "100 MiB; expected at least 256" in err


@pytest.fixture
def instantly(diffvqa, manifest, monkeypatch):
    """`diffvqa`, with engines that take no time."""
    monkeypatch.setattr(Scorer, "open", lambda folder, **options: Scorer(manifest, instant_engines(), "onnx"))
    return diffvqa


def test_a_dash_is_standard_input_read_once(instantly, tmp_path, monkeypatch):
    clip = make_clip()
    (tmp_path / "clip.mp4").write_bytes(clip)
    expected = json.loads(instantly("--format", "json", tmp_path / "clip.mp4")[1])
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reading))
    os.write(writing, clip)
    os.close(writing)
    status, out, _ = instantly("--format", "json", "-", "-")
    first, second = map(json.loads, out.splitlines())
    assert status == 1
    assert (first["source"], first["score"], first["video"]) == ("-", expected["score"], expected["video"])
    assert second["error"].startswith("- is empty")
    monkeypatch.setattr(sys, "stdin", None)
    assert instantly("-")[0] == 1


def test_warnings_are_a_mark_in_the_table_and_a_sentence_each(instantly, tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(make_clip(size=(256, 192)))  # no smaller than a view
    plain = instantly(tmp_path / "clip.mp4")[1].splitlines()[1]
    warnings = (ScoreWarning("one-code", "One thing is so."), ScoreWarning("other-code", "Another is too."))
    prepare = Scorer._prepare

    def prepare_with_warnings(*arguments):
        found = prepare(*arguments)
        return dataclasses.replace(found, source=dataclasses.replace(found.source, warnings=warnings))

    monkeypatch.setattr(Scorer, "_prepare", prepare_with_warnings)
    _, out, err = instantly(tmp_path / "clip.mp4")
    marked = out.splitlines()[1]
    assert marked.split()[0] == plain.split()[0] + "!" and marked.index("tiny") == plain.index("tiny")
    assert err.splitlines() == [
        f"diffvqa: {tmp_path / 'clip.mp4'}: One thing is so.",
        f"diffvqa: {tmp_path / 'clip.mp4'}: Another is too.",
    ]
    (result,) = map(json.loads, instantly("--format", "json", tmp_path / "clip.mp4")[1].splitlines())
    assert result["warnings"][0] == {"code": "one-code", "message": "One thing is so."}
    (row,) = csv.DictReader(io.StringIO(instantly("--format", "csv", tmp_path / "clip.mp4")[1]))
    assert row["warnings"] == "one-code: One thing is so.; other-code: Another is too."


@pytest.mark.parametrize("is_kept", [False, True])
def test_interlaced_frames_may_be_kept(instantly, tmp_path, monkeypatch, is_kept):
    (tmp_path / "clip.mp4").write_bytes(make_clip())
    asked = []
    begin = IsolatedDecoder.begin

    def noting(decoder, source, metric, config, request):
        asked.append(request.keep_interlaced)
        return begin(decoder, source, metric, config, request)

    monkeypatch.setattr(IsolatedDecoder, "begin", noting)
    assert instantly(*(["--keep-interlaced"] if is_kept else []), tmp_path / "clip.mp4")[0] == 0
    assert asked == [is_kept]


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.3, 0.5])
def test_an_interrupt_at_the_start_leaves_no_traceback(tmp_path, seconds):
    os.mkfifo(tmp_path / "endless")  # nobody ever writes to it
    command = [sys.executable, "-m", "diffvqa_rt.cli", "score", "--engines", str(tmp_path), str(tmp_path / "endless")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    # 1 where it was quicker, since there are no engines; the signal's own status where Python was ending already.
    assert process.returncode in (130, 1, -signal.SIGINT)


def test_an_interrupt_is_meant_even_where_a_script_started_the_command_in_the_background(tmp_path):
    os.mkfifo(tmp_path / "endless")
    program = "import sys; from diffvqa_rt import cli; print(flush=True); sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "client", "--url", "127.0.0.1:9", str(tmp_path / "endless")]
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
    with subprocess.Popen(ignoring, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")


def test_an_interrupt_during_decoding_ends_at_once(small_engines, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(make_clip())
    program = (
        "import sys; from diffvqa_rt import cli; from diffvqa_rt.decoding.process import DecoderProcess\n"
        "import os, signal; send = DecoderProcess.send\n"
        "def stop(self, *arguments):\n"
        "    send(self, *arguments); os.kill(self.pid, signal.SIGSTOP); print('stopped', self.pid, flush=True)\n"
        "DecoderProcess.send = stop; sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "score", "--engines", str(small_engines), tmp_path / "clip.mp4"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = next(int(line.split()[1]) for line in process.stdout if line.startswith("stopped"))
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert time.monotonic() - start < 30  # a decoder may take ten minutes
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_reader_that_stops_early_gets_no_traceback(small_engines, clip):
    command = [sys.executable, "-m", "diffvqa_rt.cli", "score", "--engines", str(small_engines), "--format", "json"]
    process = subprocess.Popen([*command, clip, clip], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert process.wait() == 1


def run_in_terminal(*command: str) -> str:
    """Returns what a command prints on a terminal of its own, standard output and error together."""
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 120))
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, close_fds=True):
        os.close(child)
        printed = b""
        try:
            while chunk := os.read(parent, 4096):
                printed += chunk
        except OSError:  # how Linux says that the other end of a terminal has closed
            pass
    os.close(parent)
    return printed.decode()


def test_on_a_terminal_rows_and_bar_keep_out_of_each_others_way(small_engines, clip, tmp_path):
    missing = tmp_path / "missing.mp4"
    command = [
        sys.executable,
        "-m",
        "diffvqa_rt.cli",
        "score",
        "--engines",
        str(small_engines),
        str(clip),
        str(missing),
    ]
    printed = run_in_terminal(*command)
    # What a carriage return goes back over is what the bar showed before.
    lines = [line.split("\r")[-1] for line in printed.replace("\r\n", "\n").split("\n")]
    assert "0/2" in printed and "1/2" in printed
    assert any(line.split() == ["score", "spread", "seconds", "model", "video"] for line in lines)
    assert any(line.endswith(str(clip)) and "tiny" in line for line in lines)
    assert any(line.split() == ["failed", str(missing)] for line in lines)


def test_a_name_that_the_terminal_cannot_show_costs_no_result(small_engines, clip, tmp_path):
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xff\n\x1b[2J.mp4")
    os.symlink(clip, strange)
    command = [sys.executable, "-m", "diffvqa_rt.cli", "score", "--engines", str(small_engines), strange]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    header, row = result.stdout.splitlines()
    assert header.split()[0] == "score"
    assert row.endswith(r"caf\udcff\n\x1b[2J.mp4")


@pytest.mark.parametrize(
    ("arguments", "option", "redirection", "sentence"),
    [
        ("info", "", ">/dev/full", "the results cannot be written"),
        ("info", "", ">&-", "standard output is closed"),
        ("--version", "-u", ">/dev/full", "the results cannot be written"),
        ("score --help", "", ">/dev/full", "the results cannot be written"),
        ("score --help", "-u", ">/dev/full", "the results cannot be written"),
    ],
)
def test_an_output_that_takes_nothing_gets_one_sentence(small_engines, arguments, option, redirection, sentence):
    folder = f'"{small_engines}"' if arguments == "info" else ""
    command = f'"{sys.executable}" {option} -m diffvqa_rt.cli {arguments} {folder} {redirection}'
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    result = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert sentence in result.stderr and result.stderr.count("\n") == 1


def test_engines_that_were_not_compared_with_torch_say_so(engines_copy, clip, capsys):
    path = engines_copy / "manifest.json"
    values = json.loads(path.read_text())
    values["backends"]["onnx"] |= {"parity": None, "without_parity": "nobody did"}
    path.write_text(json.dumps(values))
    assert cli.main(["score", "--engines", str(engines_copy), str(clip)]) == 0
    assert (
        "These onnx engines were not compared with PyTorch. Rebuild them on this machine with export/build_engines.py"
        in capsys.readouterr().err
    )
    assert cli.main(["info", str(engines_copy)]) == 0
    assert "not compared with torch: nobody did" in capsys.readouterr().out
