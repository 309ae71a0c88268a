"""Do an engine folder's scores follow VMAF on contents that it has not seen, and do its runtimes agree on how well?

    python export/build_engines.py --backend onnx,torch
    python benchmarks/quality.py --set build/weights/synthetic --engines build/tiny --out build/quality.json

Scores the validation clips of a synthetic set as `diffvqa score` does, decoding included, by each backend in turn.
Prints the agreement by type of distortion and by size, that of the frame curves, and by how much the backends' rank
correlations differ: 0.002 or more ends with exit status 1.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from machine import ROOT, machine
from tqdm import tqdm

from diffvqa_rt import Scorer
from diffvqa_rt.errors import DiffVQAError
from diffvqa_rt.results import VideoScore
from diffvqa_rt.synthetic.agreement.curves import CurveAgreement, curve_agreement
from diffvqa_rt.synthetic.agreement.ladders import agreement_by_size, agreement_by_type, agreement_markdown
from diffvqa_rt.synthetic.clip_table import SyntheticClip, read_manifest
from diffvqa_rt.synthetic.labelled import LabelledVideo, some_ladders, videos_from_set

PACKAGES = ("diffvqa-rt", "av", "numpy", "onnxruntime", "torch")
MAX_DIFFERENCE = 0.002


def score(
    engines: Path, backend: str, videos: Sequence[LabelledVideo], crops: int | None
) -> tuple[dict[str, VideoScore], float]:
    """Results by name, each file once, and the seconds that a file took."""
    scorer = Scorer.open(engines, backend=backend)
    paths = {video.path: video.name for video in videos}
    started = time.perf_counter()
    results = scorer.score_many(list(paths), crops=crops)
    scores = {}
    for path, result in zip(paths, tqdm(results, total=len(paths), desc=backend, disable=None), strict=True):
        if not isinstance(result, VideoScore):
            raise DiffVQAError(result.error)
        scores[paths[path]] = result
    return scores, (time.perf_counter() - started) / len(paths)


def curves(clips: Sequence[SyntheticClip], results: Mapping[str, VideoScore]) -> CurveAgreement:
    return curve_agreement(
        clips,
        {file: np.array(result.frame_scores) for file, result in results.items()},
        {file: np.array(result.frame_weights) for file, result in results.items()},
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--set", type=Path, required=True, metavar="DIR", help="a synthetic set")
    parser.add_argument("--engines", type=Path, default=ROOT / "build" / "tiny", help="the engine folder (build/tiny)")
    parser.add_argument("--backends", default="onnx,torch", help="which of its runtimes (default: %(default)s)")
    parser.add_argument("--crops", type=int, metavar="N", help="of each video (default: the network's)")
    parser.add_argument("--ladders-per-scene", type=int, default=4, metavar="N", help="to score (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "quality.json", help="(build/quality.json)")
    arguments = parser.parse_args(argv)
    try:
        videos = some_ladders(videos_from_set(arguments.set, "validation"), arguments.ladders_per_scene)
        names = {video.name for video in videos}
        clips = [clip for clip in read_manifest(arguments.set) if clip.file in names]
        scored = {
            name: score(arguments.engines, name, videos, arguments.crops) for name in arguments.backends.split(",")
        }
    except DiffVQAError as error:
        print(f"quality: {error}", file=sys.stderr)
        return 1
    scores = {name: {file: of.score for file, of in results.items()} for name, (results, _) in scored.items()}
    rows = {
        name: [*agreement_by_type(clips, by_file), *agreement_by_size(clips, by_file)]
        for name, by_file in scores.items()
    }
    srcc = {name: {row.name: row.srcc for row in table if row.srcc is not None} for name, table in rows.items()}
    first, *others = srcc.values()
    difference = max((abs(first[key] - other[key]) for other in others for key in first), default=0.0)
    by_frame = {name: asdict(curves(clips, results)) for name, (results, _) in scored.items()}
    facts = {
        "clips": len(clips),
        "crops": arguments.crops,
        "max_srcc_difference": difference,
        "seconds_a_clip": {name: round(seconds, 3) for name, (_, seconds) in scored.items()},
        "curves": by_frame,
        "machine": machine(PACKAGES),
    }
    tables = {name: [asdict(row) for row in table] for name, table in rows.items()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(facts | {"agreement": tables, "scores": scores}, indent=1) + "\n")
    for name, table in rows.items():
        print(f"{name}\n\n{agreement_markdown(table)}\ncurves: {by_frame[name]}\n")
    print(f"SRCC differs by at most {difference:.5f} between {', '.join(rows)}; more in {arguments.out}")
    return 0 if difference < MAX_DIFFERENCE else 1


if __name__ == "__main__":
    sys.exit(main())
