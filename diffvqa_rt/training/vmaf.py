"""VMAF of a clip against its reference, by the libvmaf inside imageio-ffmpeg's ffmpeg."""

import json
import math
import subprocess
import tempfile
from pathlib import Path
from types import ModuleType

from diffvqa_rt.errors import SyntheticSetError

_TIMEOUT_SECONDS = 600


def ffmpeg_version() -> str:
    """Of the ffmpeg that measures.

    Raises:
        SyntheticSetError: there is none.
    """
    return str(_imageio_ffmpeg().get_ffmpeg_version())


def _imageio_ffmpeg() -> ModuleType:
    # Not at the top: the set's other half, its distortions, works without.
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except ImportError as error:
        raise SyntheticSetError("VMAF needs imageio-ffmpeg; pip install 'diffvqa-rt[train]'") from error
    except RuntimeError as error:
        raise SyntheticSetError(
            "imageio-ffmpeg has no ffmpeg for this machine; set IMAGEIO_FFMPEG_EXE to one that has libvmaf"
        ) from error
    return imageio_ffmpeg


def measure_vmaf(distorted: Path, reference: Path, model: str = "vmaf_v0.6.1", *, threads: int = 1) -> float:
    """The mean VMAF over the frames, 0 to 100; frames are compared in order, whatever their times.

    The model is trained for 1080 lines at three times the picture's height: of a smaller clip, this is the quality of
    its pixels at that distance. The default of one `threads` leaves the other processors to other clips.

    Raises:
        SyntheticSetError: ffmpeg fails, or compares other than all frames of both.
    """
    with tempfile.TemporaryDirectory(prefix="diffvqa-vmaf-") as folder:
        graph = (
            "[0:v]settb=1/25,setpts=N[distorted];[1:v]settb=1/25,setpts=N[reference];"
            f"[distorted][reference]libvmaf=model=version={model}:n_threads={threads}:log_fmt=json:log_path=vmaf.json"
        )
        count = str(threads)
        inputs = [word for path in (distorted, reference) for word in ("-threads", count, "-i", str(path.resolve()))]
        command = [_imageio_ffmpeg().get_ffmpeg_exe(), "-nostdin", "-v", "error", *inputs]
        command += ["-filter_threads", count, "-filter_complex_threads", count, "-lavfi", graph, "-f", "null", "-"]
        try:
            # In the folder, since a path within the graph would need escaping.
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise SyntheticSetError(f"VMAF of {distorted.name} took over {_TIMEOUT_SECONDS} s") from error
        if done.returncode:
            said = (done.stderr.strip() or "nothing").splitlines()[-1]
            raise SyntheticSetError(f"VMAF of {distorted.name} cannot be measured; ffmpeg said: {said}")
        log = json.loads(Path(folder, "vmaf.json").read_text(encoding="utf-8"))
    value = float(log["pooled_metrics"]["vmaf"]["mean"])
    if not math.isfinite(value):
        raise SyntheticSetError(f"VMAF of {distorted.name} is {value}")
    return min(max(value, 0.0), 100.0)
