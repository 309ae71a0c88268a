"""The synthetic distortion set: pristine scenes, each with every ladder of distortions, labelled.

    python -m diffvqa_rt.synthetic --out build/synthetic --contents 40 --jobs 2

A set's folder holds `settings.json` (what decides its bytes), `manifest.csv` (one `SyntheticClip` a row)
and `scenes/<scene>/<distortion>-<severity>.mp4`. A run that is killed and started again keeps what was finished and
ends with the same bytes; with more contents, a set grows.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from diffvqa_rt.checks import whole
from diffvqa_rt.errors import DiffVQAError, SyntheticSetError
from diffvqa_rt.files import make_folder, remove_parts, write_whole
from diffvqa_rt.synthetic.clip_files import CODECS, REFERENCE_CRF, STORAGE_CRF
from diffvqa_rt.synthetic.clip_table import SyntheticClip, write_manifest
from diffvqa_rt.synthetic.clip_tasks import REFERENCE, ClipTask, finished_clips, make_clips, prepare_process
from diffvqa_rt.synthetic.distortions import LADDERS, SEVERITIES
from diffvqa_rt.synthetic.pool import Pool, PoolItem, fetch_pool
from diffvqa_rt.synthetic.scenes import plan_scenes
from diffvqa_rt.synthetic.vmaf import ffmpeg_version
from diffvqa_rt.video import DECODING_VERSION

LEAST_MOTION_LEVELS = 0.4
"""The least change from frame to frame at which a lost frame is seen; no temporal fault is made of calmer scenes."""

Progress = Callable[[int, int], None]
"""Called with how many clips are finished, and how many there will be as far as is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig:
    """The settings of a set.

    The size is for the `tiny` preset, whose distortion view is 192 pixels square: a clip is as high as that, so that
    the view sees it at its own resolution, and as wide as two pixels of 720-wide sources allow. Of 48 frames, 1.6 to
    4.8 seconds, the network's eight are six apart. `contents` is None for all. Each gives `cuts_per_content` scenes, a
    short video fewer. Each scene gets `ladders_per_scene` of the ladders, drawn for it, or all where that is None: many
    scenes teach more than many copies of few.
    """

    out: Path
    contents: int | None = None
    width: int = 352
    height: int = 192
    frames: int = 48
    cuts_per_content: int = 2
    seed: int = 0
    validation_share: float = 0.2
    ladders: tuple[str, ...] = tuple(LADDERS)
    ladders_per_scene: int | None = None
    jobs: int = 1
    max_gigabytes: float = 20.0

    def __post_init__(self) -> None:
        for name, least in [
            ("width", 16),
            ("height", 16),
            ("frames", 8),
            ("cuts_per_content", 1),
            ("jobs", 1),
            ("seed", 0),
        ]:
            object.__setattr__(self, name, whole(name, getattr(self, name), least))
        if self.width % 2 or self.height % 2:
            raise ValueError(f"the size is {self.width}x{self.height}; expected even numbers, since chroma is halved")
        for name in ("contents", "ladders_per_scene"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole(name, getattr(self, name), 1, or_else=", or None for all"))
        # As JSON holds it, whatever NumPy's number it was.
        object.__setattr__(self, "validation_share", float(self.validation_share))
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share}; expected a number from 0 to under 1")
        if not self.max_gigabytes > 0:
            raise ValueError(f"max_gigabytes is {self.max_gigabytes}; expected more than 0")
        if unknown := set(self.ladders) - set(LADDERS):
            raise ValueError(f"ladders has {', '.join(sorted(unknown))}; expected some of {', '.join(LADDERS)}")


def make_synthetic_set(config: SyntheticConfig, pool: Pool, on_progress: Progress | None = None) -> list[SyntheticClip]:
    """The set's clips, which are now in `config.out`, as its manifest lists them.

    Raises:
        SyntheticSetError: the folder holds a set with other settings or versions; the set would outgrow
            `max_gigabytes`, or no scene can be made; a clip cannot be encoded or measured.
        VideoDecodeError: a source cannot be decoded.
        FileWriteError: the folder cannot be written.
    """
    versions = _versions()
    scenes = plan_scenes(
        pool.items,
        contents=config.contents,
        size=(config.width, config.height),
        cuts=config.cuts_per_content,
        seed=config.seed,
        validation_share=config.validation_share,
    )
    make_folder(config.out)
    _keep_settings(config, versions)
    tasks = [
        ClipTask(
            out=config.out,
            size=(config.width, config.height),
            frames=config.frames,
            seed=config.seed,
            scene=scene,
            source=pool.files[scene.item.content],
            ladder=REFERENCE,
            versions=versions,
        )
        for scene in scenes
        if scene.item.content in pool.files
    ]
    for folder in (config.out, *(task.folder for task in tasks)):
        remove_parts(folder)
    try:
        _run(config, tasks, on_progress)
    except BrokenProcessPool as error:
        raise SyntheticSetError("a process that made clips died; start again to go on from there") from error
    finally:
        # Of a run that is stopped too, and then with what an earlier one made beyond.
        clips = _finished(config, tasks)
        write_manifest(config.out, clips)
    if not clips:
        raise SyntheticSetError("not one scene can be made of the contents that are there; ask for more contents")
    return clips


def _finished(config: SyntheticConfig, tasks: list[ClipTask]) -> list[SyntheticClip]:
    """The clips of the set that the folder holds, scene by scene, its reference first."""
    clips: list[SyntheticClip] = []
    for task in tasks:
        reference = list(finished_clips(task))
        every = (replace(task, ladder=ladder) for ladder in ladders_for(config, reference))
        clips += [*reference, *(clip for ladder in every for clip in finished_clips(ladder))]
    return [clip for clip in clips if (config.out / clip.file).is_file()]


def _run(config: SyntheticConfig, references: list[ClipTask], on_progress: Progress | None) -> None:
    """Makes scene after scene: a scene's ladders as soon as its reference is there, before the next scene."""
    count, size = 0, 0
    most = min(config.ladders_per_scene or len(config.ladders), len(config.ladders))
    expected = len(references) * (1 + most * len(SEVERITIES))
    todo, running = deque(references), dict[Future[list[SyntheticClip]], ClipTask]()
    # Not by fork: PyAV's and tqdm's threads do not survive one.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(config.jobs, context, prepare_process, (os.getpid(),))
    try:
        while todo or running:
            while todo and len(running) < config.jobs + 1:
                task = todo.popleft()
                running[executor.submit(make_clips, task)] = task
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, made = running.pop(future), future.result()
                count += len(made)
                size += sum(clip.bytes for clip in made)
                if task.ladder == REFERENCE:
                    ladders = ladders_for(config, made)
                    todo.extendleft(replace(task, ladder=ladder) for ladder in reversed(ladders))
                    expected -= 0 if made else 1
                    expected -= (most - len(ladders)) * len(SEVERITIES)
                if on_progress:
                    on_progress(count, expected)
                if size > config.max_gigabytes * 1e9:
                    raise SyntheticSetError(
                        f"the set has {size / 1e9:.2f} GB after {count} of {expected} clips, over its limit of "
                        f"{config.max_gigabytes:g}; raise the limit to go on, or ask for fewer contents"
                    )
    finally:
        executor.shutdown(cancel_futures=True)


def ladders_for(config: SyntheticConfig, reference: list[SyntheticClip]) -> list[str]:
    """A scene's ladders, in the catalogue's order; none where it has no reference, since its video is too short."""
    if not reference:
        return []
    scene, is_moving = reference[0].scene, reference[0].motion_levels >= LEAST_MOTION_LEVELS
    able = [name for name in LADDERS if name in config.ladders and (is_moving or not LADDERS[name].needs_motion)]
    drawn = sorted(able, key=lambda name: hashlib.sha256(f"{config.seed}/{scene}/{name}".encode()).digest())
    return [name for name in able if name in drawn[: config.ladders_per_scene]]


def _versions() -> dict[str, str]:
    """The versions of the packages that decide a clip's bytes and its label, by name."""
    packages = ("diffvqa-rt", "av", "numpy", "pillow")
    return {name: version(name) for name in packages} | {"ffmpeg": ffmpeg_version()}


def _keep_settings(config: SyntheticConfig, versions: dict[str, str]) -> None:
    """Writes the settings that decide the set's bytes to the folder, or compares them with those that are there.

    Raises:
        SyntheticSetError: the folder's set was made with something else.
    """
    names = ("width", "height", "frames", "cuts_per_content", "seed", "validation_share")
    catalogue = json.dumps(
        [asdict(ladder) for ladder in LADDERS.values()] + [asdict(codec) for codec in CODECS.values()]
    )
    settings: dict[str, Any] = {name: getattr(config, name) for name in names} | {
        "storage_crf": STORAGE_CRF,
        "reference_crf": REFERENCE_CRF,
        "decoding_version": DECODING_VERSION,
        "catalogue_sha256": hashlib.sha256(catalogue.encode()).hexdigest(),
        **{f"version of {name}": number for name, number in versions.items()},
    }
    path = config.out / "settings.json"
    if not path.exists():
        text = json.dumps(settings, indent=2) + "\n"
        write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))
        return
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SyntheticSetError(f"{path} is damaged ({error}); choose another folder") from error
    for name in [*settings, *kept]:
        if kept.get(name) != settings.get(name):
            raise SyntheticSetError(
                f"{config.out} holds a set whose {name} is {kept.get(name)!r}, now it is {settings.get(name)!r}; "
                "choose another folder, or delete that one"
            )


def main(argv: list[str] | None = None, items: Sequence[PoolItem] | None = None) -> int:
    """The command: 0 done, 1 failed (a sentence on stderr says why), 2 wrong arguments.

    Args:
        items: of the pool's table, all if not given.
    """
    parser = argparse.ArgumentParser(
        prog="python -m diffvqa_rt.synthetic",
        description="Make the synthetic distortion set: clips with known faults, labelled by VMAF or by their order.",
    )
    defaults = SyntheticConfig(out=Path())
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the set's folder; started again, it goes on"
    )
    parser.add_argument("--contents", type=int, metavar="N", help="photographs and videos to use (default: all)")
    size = f"{defaults.width}x{defaults.height}"
    parser.add_argument("--size", default=size, metavar="WxH", help="of a clip, pixels (default: %(default)s)")
    parser.add_argument(
        "--cuts-per-content",
        type=int,
        default=defaults.cuts_per_content,
        help="scenes of one photograph or video (default: %(default)s)",
    )
    parser.add_argument(
        "--validation-share",
        type=float,
        default=defaults.validation_share,
        help="of the contents (default: %(default)s)",
    )
    parser.add_argument("--frames", type=int, default=defaults.frames, help="of a clip (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, help="decides all that is random (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core, %(default)s)"
    )
    parser.add_argument(
        "--ladders",
        default=",".join(LADDERS),
        metavar="NAME,…",
        help="types of distortion (default: all, %(default)s)",
    )
    parser.add_argument(
        "--ladders-per-scene", type=int, metavar="N", help="of them, drawn for each scene (default: all)"
    )
    parser.add_argument(
        "--max-gigabytes",
        type=float,
        default=defaults.max_gigabytes,
        metavar="GB",
        help="stop when the clips outgrow this (default: %(default)s)",
    )
    parser.add_argument(
        "--pool",
        type=Path,
        default=Path("build/pool"),
        metavar="DIR",
        help="cache of the pristine media, fetched by package name (default: %(default)s, 100 MB)",
    )
    parser.add_argument("--clips", type=Path, metavar="DIR", help="folder of the pool's clips that are in no package")
    arguments = parser.parse_args(argv)
    try:
        width, height = _size(arguments.size)
        config = SyntheticConfig(
            out=arguments.out,
            contents=arguments.contents,
            width=width,
            height=height,
            frames=arguments.frames,
            cuts_per_content=arguments.cuts_per_content,
            validation_share=arguments.validation_share,
            seed=arguments.seed,
            ladders=tuple(arguments.ladders.split(",")),
            ladders_per_scene=arguments.ladders_per_scene,
            jobs=arguments.jobs,
            max_gigabytes=arguments.max_gigabytes,
        )
    except ValueError as error:
        parser.error(str(error))
    # What ends a job politely is to leave as Ctrl-C does: with the processes gone and what is finished kept.
    on_terminate = signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    # A bar only on a terminal: `disable=None` asks stderr.
    with tqdm(unit=" clips", disable=None, smoothing=0.02) as bar:

        def show(done: int, expected: int) -> None:
            bar.total = expected
            bar.update(done - bar.n)

        try:
            pool = fetch_pool(
                arguments.pool,
                arguments.clips,
                items=items,
                on_package=lambda name: bar.set_description(f"get {name}"),
            )
            for sentence in pool.missing:
                bar.write(f"left out: {sentence}", file=sys.stderr)
            bar.set_description("make")
            clips = make_synthetic_set(config, pool, show)
        except DiffVQAError as error:
            bar.write(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            bar.write("stopped; the same command goes on from here", file=sys.stderr)
            return 1
        finally:
            signal.signal(signal.SIGTERM, on_terminate)
    _report(config.out, clips, time.monotonic() - started)
    return 0


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(f"size is {text!r}; expected width and height in pixels, such as 352x192")
    return int(match[1]), int(match[2])


def _report(out: Path, clips: list[SyntheticClip], seconds: float) -> None:
    sides = {side: len({clip.content for clip in clips if clip.split == side}) for side in ("train", "validation")}
    megabytes = sum(clip.bytes for clip in clips) / 1e6
    print(
        f"{out}: {len(clips)} clips, {sides['train']} contents for training and {sides['validation']} for validation, "
        f"{megabytes:.0f} MB, in {seconds:.0f} s"
    )
