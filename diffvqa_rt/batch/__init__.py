"""Scores of whole catalogues: lists of videos in, Parquet out, on Ray Data; on this machine or on a cluster.

`manifest` reads the lists, `objects` files by path or URL, `output` and `schema` what is written, `run` the whole.
`stages` are for pipelines of your own, and `curator` for NeMo Curator's:

    from diffvqa_rt.batch import DecodeVideos, ScoreVideos

    given = {"engines": "build/tiny"}
    decoded = videos.map_batches(DecodeVideos, fn_constructor_kwargs=given, batch_format="pyarrow", concurrency=1)
    scores = decoded.map_batches(ScoreVideos, fn_constructor_kwargs=given, batch_format="pyarrow", concurrency=2)
"""

from diffvqa_rt.batch.stages import DecodeVideos, ScoreVideos

__all__ = ["DecodeVideos", "ScoreVideos"]
