"""What the wheel ships, and what it must not shadow."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_ships_our_three_packages_alone(tmp_path):
    # Without isolation the build uses the setuptools that is installed: no download, seconds.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top_level = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert top_level == {"diffvqa_rt", "diffvqa_kernels", "diffvqa_export"}
    assert "diffvqa_rt/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_no_folder_of_ours_shadows_a_package():
    """A top-level `kernels` package would break `from diffusers import UNet2DConditionModel`."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "export" / "__init__.py").exists()
