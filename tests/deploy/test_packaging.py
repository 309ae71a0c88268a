"""What the wheel ships, and what it must not shadow."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_ships_our_three_packages_alone(tmp_path):
    # From a copy, since setuptools leaves a build folder whose files the next wheel would ship; without isolation,
    # since the setuptools that is installed will do and needs no download.
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "shared", "*.egg-info"))
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top_level = {name.split("/")[0] for name in names}
    packages = {name for name in top_level if not name.endswith((".dist-info", ".data"))}
    assert packages == {"diffvqa_rt", "diffvqa_kernels", "diffvqa_export"}
    shipped = {Path(name).relative_to(*Path(name).parts[:1]) for name in names if ".data/" in name}
    models = {path.relative_to(ROOT) for path in (ROOT / "triton_repo").rglob("*") if path.suffix == ".py"}
    measured = {Path("measured", path.name) for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert shipped == {Path("data/share/diffvqa_rt", path) for path in models | measured}
    assert len(models) == 4 and len(measured) > 1
    assert "diffvqa_rt/py.typed" in names
    assert {f"diffvqa_rt/report/{name}" for name in ("template.html", "style.css", "script.js")} <= set(names)
    card = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "diffvqa_rt" / "weights").rglob("*") if path.is_file()
    }
    assert card == {name for name in names if name.startswith("diffvqa_rt/weights/")}
    networks = [name for name in card if name.endswith(".safetensors") and "decoder" not in name]
    assert "diffvqa_rt/weights/tiny/tiny.safetensors" in networks
    assert sum(zipfile.ZipFile(wheel).getinfo(name).file_size for name in card) <= 18_000_000 * len(networks)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_no_folder_of_ours_shadows_a_package():
    """A top-level `kernels` package would break `from diffusers import UNet2DConditionModel`."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "export" / "__init__.py").exists()
