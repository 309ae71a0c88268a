"""`diffvqa doctor`: what this machine can run, and the command that mends what is missing, one line each."""

import argparse
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import PIL
from av.codec.codec import UnknownCodecError
from PIL import features

from diffvqa_rt.commands.command import Command
from diffvqa_rt.engines import available_cpus
from diffvqa_rt.extras import EXTRAS, Extra
from diffvqa_rt.serving import ServerError, find_tritonserver
from diffvqa_rt.standard_output import print_results

# Those of most files that people have; FFmpeg has hundreds.
_VIDEO = ("h264", "hevc", "av1", "vp9", "vp8", "mpeg2video", "mpeg4", "prores", "dnxhd", "ffv1", "mjpeg")
_PICTURES = {"jpg": "JPEG", "zlib": "PNG", "libtiff": "TIFF", "webp": "WebP", "avif": "AVIF"}

_MEMORY, _GPUS = Path("/proc/meminfo"), Path("/proc/driver/nvidia/gpus")


def _add_arguments(command: argparse.ArgumentParser) -> None:
    """It takes none."""


def _run(arguments: argparse.Namespace) -> int:
    facts = {
        "Python": f"{platform.python_version()} at {sys.executable}",
        "cores": f"{available_cpus()} for this process",
        "memory": _memory(_MEMORY),
        "GPU": _gpus(_GPUS),
        "videos": _decoders(f"PyAV {av.__version__}", {name: _decodes(name) for name in _VIDEO}),
        "pictures": _decoders(
            f"Pillow {PIL.__version__}", {name: bool(features.check(feature)) for feature, name in _PICTURES.items()}
        ),
        "server": _server(),
    }
    facts |= {f"extra {extra.name}": _state(extra) for extra in EXTRAS.values()}
    print_results("\n".join(_lines(facts)))
    return 0


def _lines(facts: dict[str, str]) -> Iterator[str]:
    width = max(map(len, facts))
    return (f"{name:{width}}  {fact}" for name, fact in facts.items())


def _memory(file: Path) -> str:
    sizes = dict(re.findall(r"^(MemTotal|MemAvailable): +(\d+) kB$", file.read_text(), re.MULTILINE))
    total, free = (int(sizes[name]) / 2**20 for name in ("MemTotal", "MemAvailable"))
    return f"{total:.1f} GiB, of which {free:.1f} are free"


def _gpus(folder: Path) -> str:
    """The models of NVIDIA's cards, as their driver lists them."""
    texts = [path.read_text() for path in sorted(folder.glob("*/information"))]
    models = [found[1] for text in texts if (found := re.search(r"^Model:\s*(.+)$", text, re.MULTILINE))]
    return ", ".join(models) or "none of NVIDIA's; the backends onnx, aot-inductor and torch run on the CPU"


def _decodes(name: str) -> bool:
    try:
        av.Codec(name, "r")
    except UnknownCodecError:
        return False
    return True


def _decoders(library: str, is_there: dict[str, bool]) -> str:
    lacking = [name for name, there in is_there.items() if not there]
    decoders = ", ".join(name for name, there in is_there.items() if there)
    return f"{decoders} by {library}" + (f", which lacks {', '.join(lacking)}" if lacking else "")


def _server() -> str:
    try:
        return f"present ({find_tritonserver().binary})"
    except ServerError as error:
        return f"missing: {error}"


def _state(extra: Extra) -> str:
    if missing := extra.missing():
        return f"missing {', '.join(missing)}, for {extra.adds}: {extra.install_command()}"
    return f"present: {extra.adds}"


COMMAND = Command(
    name="doctor",
    help="what this machine can run, and what installs the rest",
    description="Print a line each for Python, cores, memory, GPU, decoders, Triton server and the extras: what is "
    "present, and of what is missing the command that installs it. Nothing is changed, and no runtime is loaded.",
    add_arguments=_add_arguments,
    run=_run,
)
