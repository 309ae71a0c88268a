"""VMAF of a clip against its reference, by the libvmaf inside imageio-ffmpeg's ffmpeg.

ffmpeg and libvmaf make the best of what they get: a damaged picture is patched up, and the shorter clip's last picture
is compared again and again. A label needs the contrary, so both files' pictures are counted and measured too.
"""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.errors import SyntheticSetError
from diffvqa_rt.extras import needs_package

MODELS = {"vmaf_v1": "vmaf_v1.0.16_3d0h.json", "vmaf": "vmaf_v0.6.1", "vmaf_neg": "vmaf_v0.6.1neg"}
"""The models by the names of their labels: version 1, which sees banding and chroma; version 0.6.1; and its
no-enhancement-gain form, which counts sharpening as a fault."""

LEAST_SIDES = (160, 216)
"""The least short and long side of what version 1 was seen to measure, pixels; it refuses 144 and 214."""

_TIMEOUT_SECONDS = 600


def ffmpeg_version() -> str:
    """The version of the ffmpeg that measures.

    Raises:
        SyntheticSetError: there is none.
    """
    module = _imageio_ffmpeg()
    try:
        return str(module.get_ffmpeg_version())
    except (OSError, subprocess.SubprocessError) as error:
        raise _not_an_ffmpeg(module, error) from error


def models_version() -> str:
    """The version of the package that has the models which are in no ffmpeg.

    Raises:
        SyntheticSetError: it is not installed.
    """
    try:
        return version("ffmpeg-quality-metrics")
    except PackageNotFoundError as error:
        raise _no_models() from error


def _imageio_ffmpeg() -> ModuleType:
    # Not at the top: the set's other half, its distortions, works without.
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except ImportError as error:
        raise SyntheticSetError(needs_package("VMAF", "imageio-ffmpeg", "train")) from error
    except RuntimeError as error:
        raise SyntheticSetError(
            "imageio-ffmpeg has no ffmpeg for this machine; set IMAGEIO_FFMPEG_EXE to one that has libvmaf"
        ) from error
    return imageio_ffmpeg


def _no_models() -> SyntheticSetError:
    return SyntheticSetError(needs_package("VMAF v1", "ffmpeg-quality-metrics", "train"))


def _not_an_ffmpeg(module: ModuleType, error: Exception) -> SyntheticSetError:
    return SyntheticSetError(
        f"{module.get_ffmpeg_exe()} cannot be run as ffmpeg ({error}); see IMAGEIO_FFMPEG_EXE, which names another"
    )


def measure_vmaf(
    distorted: Path, reference: Path, models: Sequence[str] = ("vmaf",), *, threads: int = 1
) -> dict[str, NDArray[np.float64]]:
    """VMAF of each frame by each of the models, [T] from 0 to 100; frames are compared in order, whatever their times.

    The models are trained for 1080 lines at three times the picture's height: of a smaller clip, this is the quality of
    its pixels at that distance. The default of one `threads` leaves the other processors to other clips.

    Args:
        models: of `MODELS`.

    Raises:
        SyntheticSetError: ffmpeg fails, or a file is damaged; the files differ in their pictures' number or size, so
            that not all frames of both can be compared.
    """
    if unknown := set(models) - set(MODELS):
        raise ValueError(f"models has {', '.join(sorted(unknown))}; expected some of {', '.join(MODELS)}")
    with tempfile.TemporaryDirectory(prefix="diffvqa-vmaf-") as name:
        folder = Path(name)
        # One after the other: libvmaf 3 shares nothing between models but features of the same settings.
        described = "|".join(f"{_model(MODELS[model], folder)}\\:name={model}" for model in models)
        graph = (
            "[0:v]settb=1/25,setpts=N[distorted];[1:v]settb=1/25,setpts=N[reference];"
            f"[distorted][reference]libvmaf=model='{described}':n_threads={threads}:log_fmt=json:log_path=vmaf.json"
        )
        module, count = _imageio_ffmpeg(), str(threads)
        # -xerror and explode: with a damaged file, ffmpeg is to end in an error.
        command = [module.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-xerror"]
        for path in (distorted, reference):
            command += ["-threads", count, "-err_detect", "explode", "-i", str(path.resolve())]
        command += ["-filter_threads", count, "-filter_complex_threads", count, "-lavfi", graph]
        command += ["-fps_mode", "passthrough", "-enc_time_base", "1/25", "-f", "null", "-"]
        for number in range(2):
            command += ["-map", f"{number}:v:0", "-fps_mode", "passthrough", "-noautoscale"]
            command += ["-f", "framecrc", f"{number}.framecrc"]
        try:
            # In the folder, since a path within the graph would need escaping.
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise SyntheticSetError(f"VMAF of {distorted.name} took over {_TIMEOUT_SECONDS} s") from error
        except OSError as error:
            raise _not_an_ffmpeg(module, error) from error
        one, other = (_Pictures.read(folder / f"{number}.framecrc") for number in range(2))
        if one.size and other.size and one.size != other.size:
            raise SyntheticSetError(
                f"VMAF of {distorted.name} cannot be measured: its pictures are {one.size}, and those of "
                f"{reference.name} are {other.size}; give two clips of one size"
            )
        if done.returncode:
            said = (done.stderr.strip() or "nothing").splitlines()[-1]
            raise SyntheticSetError(f"VMAF of {distorted.name} cannot be measured; ffmpeg said: {said}")
        for path, pictures in [(distorted, one), (reference, other)]:
            if pictures.changes_size:
                raise SyntheticSetError(
                    f"VMAF of {distorted.name} cannot be measured: the pictures of {path.name} change their size"
                )
        if one.count != other.count or not one.count:
            raise SyntheticSetError(
                f"VMAF of {distorted.name} cannot be measured: it has {one.count} frames, and {reference.name} has "
                f"{other.count}; give two clips with the same frames"
            )
        try:
            log = json.loads((folder / "vmaf.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            # ffmpeg ends well where libvmaf gives up at the first picture.
            raise SyntheticSetError(
                f"VMAF of {distorted.name} cannot be measured: libvmaf compared none of its pictures of {one.size}; "
                f"version 1 takes {LEAST_SIDES[0]}x{LEAST_SIDES[1]} and larger"
            ) from error
    if len(log["frames"]) != one.count:
        raise SyntheticSetError(
            f"VMAF of {distorted.name} cannot be measured: libvmaf compared {len(log['frames'])} of {one.count} frames"
        )
    measured = {model: np.array([frame["metrics"][model] for frame in log["frames"]], float) for model in models}
    for model, values in measured.items():
        if not np.isfinite(values).all():
            raise SyntheticSetError(f"VMAF of {distorted.name} by {model} is {values.mean()}")
    return {model: values.clip(0, 100) for model, values in measured.items()}


def _model(name: str, folder: Path) -> str:
    """A model as libvmaf's option; one that is not built in is copied into the folder."""
    if not name.endswith(".json"):
        return f"version={name}"
    try:
        package = files("ffmpeg_quality_metrics")
        content = (package / "vmaf_models" / name).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise _no_models() from error
    (folder / name).write_bytes(content)
    return f"path={name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pictures:
    """The pictures that ffmpeg decoded of a file. `size` as `352x192`; empty where there was nothing."""

    count: int
    size: str
    changes_size: bool

    @classmethod
    def read(cls, path: Path) -> "_Pictures":
        """Reads a list of checksums, ffmpeg's `framecrc`: a header, then a line for each picture."""
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        sizes = [line.partition(":")[2].strip() for line in lines if line.startswith("#dimensions 0:")]
        pictures = [line.split(",") for line in lines if line and not line.startswith("#")]
        # The fifth column is a picture's bytes, without any compression.
        return cls(
            count=len(pictures),
            size=sizes[0] if sizes else "",
            changes_size=len({columns[4].strip() for columns in pictures}) > 1,
        )
