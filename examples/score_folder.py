"""Scores the videos of a folder into a CSV file, the worst first: score_folder.py ENGINES FOLDER OUT"""

import csv
import sys
from pathlib import Path

from diffvqa_rt import Scorer, ScoringFailure

engines, folder, out = sys.argv[1:]
videos = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".mp4", ".mkv", ".mov", ".webm"))

rows, failures = [], []
with Scorer.open(engines) as scorer:
    for video, result in zip(videos, scorer.score_many(videos), strict=True):
        if isinstance(result, ScoringFailure):
            failures.append((video, "", "", result.error))
        else:
            # The moment to look at: of all frames that were scored, the worst one's time.
            _, seconds = min(zip(result.frame_scores, result.timestamps_seconds, strict=True))
            rows.append((video, result.score, seconds, "; ".join(warning.message for warning in result.warnings)))

with open(out, "w", newline="", encoding="utf-8") as file:
    table = csv.writer(file)
    table.writerow(["video", "score", "worst_frame_seconds", "notes"])
    table.writerows([*sorted(rows, key=lambda row: row[1]), *failures])
print(f"{len(rows)} scored, {len(failures)} failed; {out}")
