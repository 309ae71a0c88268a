"""`diffvqa doctor`: a line each of what is there, and the command for what is not."""

import pytest

from diffvqa_rt import cli, extras
from diffvqa_rt.commands import doctor
from diffvqa_rt.extras import EXTRAS
from diffvqa_rt.serving import ServerError


@pytest.fixture
def lines(capsys):
    """The lines that the command prints, by their names."""

    def run() -> dict[str, str]:
        assert cli.main(["doctor"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        width = out.index("Python") + len("extra tensorrt-rtx")
        return {line[:width].strip(): line[width:].strip() for line in out.splitlines()}

    return run


def test_each_thing_is_a_line(lines):
    facts = ["Python", "cores", "memory", "GPU", "videos", "pictures", "server"]
    found = lines()
    assert list(found) == [*facts, *(f"extra {name}" for name in EXTRAS)]
    assert "GiB, of which" in found["memory"] and "h264, hevc" in found["videos"] and "JPEG, PNG" in found["pictures"]
    assert found["extra cpu"] == "present: scoring on the CPU"


def test_what_is_missing_comes_with_the_command_that_installs_it(lines, monkeypatch):
    def absent() -> None:
        raise ServerError("no tritonserver on PATH")

    monkeypatch.setattr(extras, "is_installed", lambda path: path == "onnxruntime")
    monkeypatch.setattr(doctor, "find_tritonserver", absent)
    found = lines()
    assert found["server"] == "missing: no tritonserver on PATH"
    assert found["extra cpu"].startswith("present")
    for name, extra in EXTRAS.items():
        if name != "cpu":
            assert found[f"extra {name}"].endswith(f", for {extra.adds}: {extra.install_command()}")
    assert found["extra report"].startswith("missing jinja2, matplotlib, for `diffvqa report`: ")


def test_a_decoder_that_is_not_there_is_named(lines, monkeypatch):
    monkeypatch.setattr(doctor, "_VIDEO", ("h264", "no-such-codec"))
    assert lines()["videos"].endswith(", which lacks no-such-codec") and lines()["videos"].startswith("h264 by PyAV ")


def test_the_drivers_cards_are_named(lines, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_GPUS", tmp_path)
    assert lines()["GPU"].startswith("none")
    for bus, model in {"0000:01:00.0": "NVIDIA H200", "0000:02:00.0": "NVIDIA L4"}.items():
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 35\n")
    assert lines()["GPU"] == "NVIDIA H200, NVIDIA L4"
