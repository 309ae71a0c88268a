import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")


def _run(*arguments):
    # The tests of the kernels may have the interpreter on, and it compiles nothing.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "diffvqa_kernels.aot", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_every_kernel_compiles_without_spills(tmp_path):
    done = _run("--arch", "sm_90", "--layout", "natural", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    kernels = {row[0].split(".")[0] for row in rows}
    assert kernels == {"chunk_states", "chunk_outputs", "chunk_adjoints", "carry_states", "chunk_gradients"}
    assert all(int(row[-1]) == 0 for row in rows)
    for row in rows:
        stem = tmp_path / f"{row[0]}.natural.bfloat16.sm_90"
        assert stem.with_name(stem.name + ".cubin").read_bytes().startswith(b"\x7fELF")
        assert json.loads(stem.with_name(stem.name + ".json").read_text())["registers"] == int(row[3])


@pytest.mark.slow
def test_every_architecture_compiles_without_spills(tmp_path):
    done = _run("--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_unknown_architecture_is_refused(tmp_path):
    done = _run("--arch", "sm_12", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "sm_80, sm_86" in done.stderr
