"""Keeps the videos of a table that are good enough, in a Ray Data pipeline: ray_pipeline.py ENGINES LEAST VIDEO…"""

import sys

import ray

from diffvqa_rt.batch import DecodeVideos, ScoreVideos

engines, least, *videos = sys.argv[1:]

table = ray.data.from_items([{"video": video, "licence": "CC-BY"} for video in videos], override_num_blocks=len(videos))
decoded = table.map_batches(
    DecodeVideos,
    fn_constructor_kwargs={"engines": engines},
    batch_format="pyarrow",
    batch_size=1,
    concurrency=1,
    num_cpus=0.25,
)
scored = decoded.map_batches(
    ScoreVideos,
    fn_constructor_kwargs={"engines": engines, "threads": 1},
    batch_format="pyarrow",
    batch_size=1,
    concurrency=1,
    num_cpus=0.75,
)
good = scored.filter(lambda row: row["error"] is None and row["score"] >= float(least))
for row in good.sort("score", descending=True).take_all():
    print(f"{row['score']:.3f} {row['video']} {row['licence']}")
