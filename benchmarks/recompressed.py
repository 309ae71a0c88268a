"""Do scores fall where the videos of a folder are compressed ever harder?

    python benchmarks/recompressed.py VIDEOS --engines build/tiny --out build/recompressed.json

Each video of the folder is scored as it is, and as H.264 at three constant rate factors, at its own size and rate. No
reference is needed: of each two versions, the one with the lower rate factor is the better. Prints a line a video and
the share of pairs in order; a score outside the range is counted.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
from machine import ROOT, machine
from tqdm import tqdm

from diffvqa_rt import Scorer
from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.results import VideoScore

PACKAGES = ("diffvqa-rt", "av", "imageio-ffmpeg", "numpy", "onnxruntime")
RATE_FACTORS = (23, 33, 43)


def compress(video: Path, crf: int, path: Path) -> None:
    """The video as H.264 by libx264, its first 10 s."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(video), "-t", "10", "-an"]
    command += ["-c:v", "libx264", "-crf", str(crf), "-pix_fmt", "yuv420p", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise DiffVQAError(f"{video} cannot be compressed: {done.stderr.strip()}")


def score(scorer: Scorer, path: Path) -> VideoScore:
    (result,) = scorer.score_many([path])
    if not isinstance(result, VideoScore):
        raise DiffVQAError(result.error)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("videos", type=Path, help="a folder of MP4 files")
    parser.add_argument("--engines", type=Path, default=ROOT / "build" / "tiny", help="the engine folder (build/tiny)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "recompressed.json")
    arguments = parser.parse_args(argv)
    rows, outside, in_order = {}, 0, []
    try:
        scorer = Scorer.open(arguments.engines, backend="onnx")
        with tempfile.TemporaryDirectory() as folder:
            for video in tqdm(sorted(arguments.videos.glob("*.mp4")), disable=None):
                results = [score(scorer, video)]
                for crf in RATE_FACTORS:
                    path = Path(folder) / f"{video.stem}-{crf}.mp4"
                    compress(video, crf, path)
                    results.append(score(scorer, path))
                scores = [result.raw_score for result in results]
                low, high = results[0].score_range
                outside += sum(not low <= value <= high for value in scores)
                in_order += [better > worse for better, worse in itertools.combinations(scores, 2)]
                rows[video.name] = scores
    except DiffVQAError as error:
        print(f"recompressed: {error}", file=sys.stderr)
        return 1
    if not rows:
        print(f"recompressed: {arguments.videos} has no MP4 files", file=sys.stderr)
        return 1
    share = sum(in_order) / len(in_order)
    facts = {"rate_factors": RATE_FACTORS, "pairs_in_order": share, "outside_the_range": outside, "scores": rows}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(facts | {"machine": machine(PACKAGES)}, indent=1) + "\n")
    print("| video | as it is | " + " | ".join(f"CRF {crf}" for crf in RATE_FACTORS) + " |")
    print("| --- " * (2 + len(RATE_FACTORS)) + "|")
    for name, scores in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in scores) + " |")
    print(f"{share:.1%} of {len(in_order)} pairs are in order, and {outside} scores outside the range")
    return 0


if __name__ == "__main__":
    sys.exit(main())
