"""The synthetic distortion set: pristine scenes at the sizes of life, with ladders of distortions, labelled by VMAF.

    python -m diffvqa_rt.synthetic --out build/synthetic --contents 40 --jobs 2

A set's folder holds `settings.json` (what decides its bytes), `manifest.csv` (one `SyntheticClip` a row)
and `scenes/<scene>/<distortion>-<severity>.npy`, the views that a network learns from; of the contents for validation
the clips too, `.mp4`. A run that is killed and started again keeps the scenes that were finished and ends with the same
bytes; with more contents, a set grows.
"""

import argparse
import hashlib
import itertools
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
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from diffvqa_rt.checks import whole
from diffvqa_rt.errors import DiffVQAError, SyntheticSetError
from diffvqa_rt.files import make_folder, remove_parts, write_whole
from diffvqa_rt.synthetic.clip_files import CODECS, REFERENCE_CRF, STORAGE_CRF
from diffvqa_rt.synthetic.clip_table import SyntheticClip, write_manifest
from diffvqa_rt.synthetic.clip_tasks import SceneTask, finished_clips, make_clips, prepare_process
from diffvqa_rt.synthetic.distortions import CODECS_AND_SCALINGS, LADDERS, SEVERITIES
from diffvqa_rt.synthetic.pool import Pool, PoolItem, fetch_pool
from diffvqa_rt.synthetic.scenes import SIZES, ClipSize, Scene, plan_scenes
from diffvqa_rt.synthetic.set_lock import only_run
from diffvqa_rt.synthetic.views import ViewsConfig
from diffvqa_rt.synthetic.vmaf import LEAST_SIDES, ffmpeg_version, models_version
from diffvqa_rt.video import DECODING_VERSION

Progress = Callable[[int, int], None]
"""Called with how many scenes are finished, and how many there will be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig:
    """The settings of a set.

    Of 24 frames, 0.4 to 1 second, the network's eight are three apart. `contents` is None for all. Each gives
    `cuts_per_content` scenes, of sizes of their own, a short video fewer, a photograph for validation one. Each scene
    gets `ladders_per_scene` of the ladders, drawn for it, every other of them a codec or a scaling: many scenes teach
    more than many copies of few. A training ladder has `severities` of the five, drawn for it; one for validation has
    all.
    """

    out: Path
    contents: int | None = None
    sizes: tuple[ClipSize, ...] = tuple(SIZES)
    frames: int = 24
    cuts_per_content: int = 2
    seed: int = 0
    validation_share: float = 0.15
    ladders: tuple[str, ...] = tuple(LADDERS)
    ladders_per_scene: int = 2
    validation_ladders_per_scene: int = 3
    severities: int = 3
    views: ViewsConfig = field(default_factory=ViewsConfig)
    keeps_training_files: bool = False
    jobs: int = 1
    max_gigabytes: float = 40.0

    def __post_init__(self) -> None:
        for name, least in [
            ("frames", 8),
            ("cuts_per_content", 1),
            ("ladders_per_scene", 1),
            ("validation_ladders_per_scene", 1),
            ("jobs", 1),
            ("seed", 0),
        ]:
            object.__setattr__(self, name, whole(name, getattr(self, name), least))
        object.__setattr__(self, "severities", whole("severities", self.severities, 1, len(SEVERITIES)))
        object.__setattr__(self, "sizes", tuple(_checked_size(*size) for size in self.sizes))
        for name, values in (("sizes", self.sizes), ("ladders", self.ladders)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} is {values}; expected at least one, and none of them twice")
        if self.contents is not None:
            object.__setattr__(self, "contents", whole("contents", self.contents, 1, or_else=", or None for all"))
        # As JSON holds it, whatever NumPy's number it was.
        object.__setattr__(self, "validation_share", float(self.validation_share))
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share}; expected a number from 0 to under 1")
        if not self.max_gigabytes > 0:
            raise ValueError(f"max_gigabytes is {self.max_gigabytes}; expected more than 0")
        if unknown := set(self.ladders) - set(LADDERS):
            raise ValueError(f"ladders has {', '.join(sorted(unknown))}; expected some of {', '.join(LADDERS)}")


def _checked_size(width: int, height: int) -> ClipSize:
    least = " and ".join(map(str, LEAST_SIDES))
    if width % 2 or height % 2 or any(side < of for side, of in zip(sorted((width, height)), LEAST_SIDES, strict=True)):
        raise ValueError(
            f"sizes has {width}x{height}; expected even numbers, since chroma is halved, of at least {least}, since "
            "VMAF measures nothing smaller"
        )
    return int(width), int(height)


def make_synthetic_set(config: SyntheticConfig, pool: Pool, on_progress: Progress | None = None) -> list[SyntheticClip]:
    """The set's clips, which are now in `config.out`, as its manifest lists them.

    Raises:
        SyntheticSetError: the folder holds a set with other settings or versions, or another run is making it; the
            set would outgrow `max_gigabytes`, or no scene can be made; a source cannot be read; a clip cannot be
            encoded or measured.
        VideoDecodeError: a video cannot be decoded.
        FileWriteError: the folder cannot be written.
    """
    versions = _versions()
    scenes = plan_scenes(
        pool.items,
        contents=config.contents,
        sizes=config.sizes,
        cuts=config.cuts_per_content,
        seed=config.seed,
        validation_share=config.validation_share,
    )
    tasks = [
        _task(config, scene, pool.files[scene.item.content], versions)
        for scene in scenes
        if scene.item.content in pool.files
    ]
    make_folder(config.out)
    with only_run(config.out):
        _keep_settings(config, versions)
        for folder in (config.out, *(task.folder for task in tasks)):
            remove_parts(folder)
        try:
            _run(config, tasks, on_progress)
        except BrokenProcessPool as error:
            raise SyntheticSetError("a process that made clips died; start again to go on from there") from error
        finally:
            # Of a run that is stopped too, and then with what an earlier one made beyond.
            clips = [clip for task in tasks for clip in finished_clips(task) or ()]
            write_manifest(config.out, clips)
    if not clips:
        raise SyntheticSetError("not one scene can be made of the contents that are there; ask for more contents")
    return clips


def _task(config: SyntheticConfig, scene: Scene, source: Path, versions: dict[str, str]) -> SceneTask:
    is_training = scene.split == "train"
    ladders = ladders_in_turn(config, scene.name)
    return SceneTask(
        out=config.out,
        frames=config.frames,
        seed=config.seed,
        scene=scene,
        source=source,
        ladders=tuple(ladders),
        most_ladders=config.ladders_per_scene if is_training else config.validation_ladders_per_scene,
        severities={
            name: _severities(config, f"{scene.name}/{name}") if is_training else SEVERITIES for name in ladders
        },
        views=config.views,
        keeps_files=config.keeps_training_files or not is_training,
        versions=versions,
    )


def ladders_in_turn(config: SyntheticConfig, scene: str) -> list[str]:
    """All ladders in the order in which a scene gets them: one of the codecs and scalings, one of the others, …"""
    drawn = sorted(config.ladders, key=lambda name: _hash(f"{config.seed}/{scene}/{name}"))
    field = [name for name in drawn if name in CODECS_AND_SCALINGS]
    others = [name for name in drawn if name not in CODECS_AND_SCALINGS]
    pairs = itertools.zip_longest(field, others)
    return [name for pair in pairs for name in pair if name is not None]


def _severities(config: SyntheticConfig, ladder: str) -> tuple[int, ...]:
    drawn = sorted(SEVERITIES, key=lambda severity: _hash(f"{config.seed}/{ladder}/{severity}"))
    return tuple(sorted(drawn[: config.severities]))


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _run(config: SyntheticConfig, tasks: Sequence[SceneTask], on_progress: Progress | None) -> None:
    """Makes scene after scene."""
    size = 0
    # Not by fork: PyAV's and tqdm's threads do not survive one.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(config.jobs, context, prepare_process, (os.getpid(), config.out))
    todo, running = deque(tasks), set[Future[list[SyntheticClip]]]()
    try:
        while todo or running:
            while todo and len(running) < config.jobs + 1:
                running.add(executor.submit(make_clips, todo.popleft()))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                size += sum(_bytes_kept(config, clip) for clip in future.result())
            if on_progress:
                on_progress(len(tasks) - len(todo) - len(running), len(tasks))
            if size > config.max_gigabytes * 1e9:
                raise SyntheticSetError(
                    f"the set has {size / 1e9:.2f} GB after {len(tasks) - len(todo) - len(running)} of {len(tasks)} "
                    f"scenes, over its limit of {config.max_gigabytes:g}; raise the limit to go on, or ask for fewer "
                    "contents"
                )
    finally:
        executor.shutdown(cancel_futures=True)


def _bytes_kept(config: SyntheticConfig, clip: SyntheticClip) -> int:
    is_kept = config.keeps_training_files or clip.split == "validation"
    return clip.views_bytes + (clip.bytes if is_kept else 0)


def _versions() -> dict[str, str]:
    """The versions of the packages that decide a clip's bytes and its label, by name."""
    measuring = {"ffmpeg-quality-metrics": models_version(), "ffmpeg": ffmpeg_version()}
    return {name: version(name) for name in ("diffvqa-rt", "av", "numpy", "pillow")} | measuring


def _keep_settings(config: SyntheticConfig, versions: dict[str, str]) -> None:
    """Writes the settings that decide the set's bytes to the folder, or compares them with those that are there.

    Raises:
        SyntheticSetError: the folder's set was made with something else.
    """
    free = ("out", "contents", "jobs", "max_gigabytes")
    decided = {name: value for name, value in asdict(config).items() if name not in free}
    catalogue = json.dumps(
        [asdict(ladder) for ladder in LADDERS.values()] + [asdict(codec) for codec in CODECS.values()]
    )
    # By way of JSON, as it is read again: lists where there were tuples.
    settings: dict[str, Any] = json.loads(json.dumps(decided)) | {
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
    parser.add_argument(
        "--sizes",
        default=",".join(f"{width}x{height}" for width, height in SIZES),
        metavar="WxH,…",
        help="of clips, pixels; a content gets those that it is large enough for (default: %(default)s)",
    )
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
        "--ladders-per-scene",
        type=int,
        default=defaults.ladders_per_scene,
        metavar="N",
        help="of them, drawn for each training scene (default: %(default)s)",
    )
    parser.add_argument(
        "--keep-training-files",
        action="store_true",
        help="keep the clips of training contents too, and not their views alone",
    )
    parser.add_argument(
        "--max-gigabytes",
        type=float,
        default=defaults.max_gigabytes,
        metavar="GB",
        help="stop when the set outgrows this (default: %(default)s)",
    )
    parser.add_argument(
        "--pool",
        type=Path,
        default=Path("build/pool"),
        metavar="DIR",
        help="cache of the pristine media, fetched by package name (default: %(default)s, 100 MB)",
    )
    parser.add_argument("--media", type=Path, metavar="DIR", help="folder of the pool's files that are in no package")
    arguments = parser.parse_args(argv)
    try:
        config = SyntheticConfig(
            out=arguments.out,
            contents=arguments.contents,
            sizes=tuple(_size(text) for text in arguments.sizes.split(",")),
            frames=arguments.frames,
            cuts_per_content=arguments.cuts_per_content,
            validation_share=arguments.validation_share,
            seed=arguments.seed,
            ladders=tuple(arguments.ladders.split(",")),
            ladders_per_scene=arguments.ladders_per_scene,
            keeps_training_files=arguments.keep_training_files,
            jobs=arguments.jobs,
            max_gigabytes=arguments.max_gigabytes,
        )
    except ValueError as error:
        parser.error(str(error))
    # What ends a job politely is to leave as Ctrl-C does: with the processes gone and what is finished kept.
    on_terminate = signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    # A bar only on a terminal: `disable=None` asks stderr.
    with tqdm(unit=" scenes", disable=None, smoothing=0.02) as bar:

        def show(done: int, expected: int) -> None:
            bar.total = expected
            bar.update(done - bar.n)

        try:
            pool = fetch_pool(
                arguments.pool,
                arguments.media,
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
    _report(config, clips, time.monotonic() - started)
    return 0


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(f"size is {text!r}; expected width and height in pixels, such as 352x192")
    return int(match[1]), int(match[2])


def _report(config: SyntheticConfig, clips: list[SyntheticClip], seconds: float) -> None:
    sides = {side: len({clip.content for clip in clips if clip.split == side}) for side in ("train", "validation")}
    megabytes = sum(_bytes_kept(config, clip) for clip in clips) / 1e6
    print(
        f"{config.out}: {len(clips)} clips, {sides['train']} contents for training and {sides['validation']} for "
        f"validation, {megabytes:.0f} MB, in {seconds:.0f} s"
    )
