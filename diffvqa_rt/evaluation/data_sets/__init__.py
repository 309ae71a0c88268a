"""Readers of data sets, each in its published file layout.

    table = read_table("konvid-1k", Path("/data/KoNViD_1k"))
    table.rows[0].video, table.rows[0].mos

None of the data sets is part of this package. Each reader says where its layout is known from; `original` means what
its authors publish, `readers` means other people's published code that reads it.
"""

from pathlib import Path

from diffvqa_rt.evaluation.data_sets.authentic_images import AUTHENTIC_IMAGE_SETS
from diffvqa_rt.evaluation.data_sets.data_set import DataSet, ProtocolName
from diffvqa_rt.evaluation.data_sets.distorted_images import DISTORTED_IMAGE_SETS
from diffvqa_rt.evaluation.data_sets.generated_videos import GENERATED_VIDEO_SETS
from diffvqa_rt.evaluation.data_sets.plain_csv import read_plain_csv
from diffvqa_rt.evaluation.data_sets.videos import VIDEO_SETS
from diffvqa_rt.evaluation.mos_table import MosTable, MosTableBuilder

DATA_SETS: dict[str, DataSet] = {
    **VIDEO_SETS,
    **GENERATED_VIDEO_SETS,
    **DISTORTED_IMAGE_SETS,
    **AUTHENTIC_IMAGE_SETS,
    "csv": DataSet(
        title="CSV",
        kind="video",
        layout="a file with columns video,mos and, if wanted, split, content, prompt and generator",
        mos_range=None,
        protocol="whole",
        read=read_plain_csv,
    ),
}


def read_table(
    name: str, source: Path, *, require_videos: bool = True, mos_range: tuple[float, float] | None = None
) -> MosTable:
    """A data set's videos or images, and opinions.

    Args:
        name: one of `DATA_SETS`.
        source: the folder that it was unpacked into; for `csv`, the CSV file.
        require_videos: refuse a table with videos that are not there.
        mos_range: in the place of the data set's own.

    Raises:
        ValueError: there is no such data set.
        MosTableError: a file is missing, malformed or empty, or a video is missing; the sentence names file and line.
    """
    if name not in DATA_SETS:
        raise ValueError(f"data set is {name!r}; expected one of {', '.join(DATA_SETS)}")
    data_set = DATA_SETS[name]
    table_name, title = (source.stem, source.stem) if name == "csv" else (name, data_set.title)
    builder = MosTableBuilder(
        table_name,
        title,
        mos_range or data_set.mos_range,
        kind=data_set.kind,
        has_dmos=data_set.has_dmos,
        short_side=data_set.short_side,
        require_videos=require_videos,
    )
    data_set.read(source, builder)
    return builder.build(source)


__all__ = ["DATA_SETS", "DataSet", "ProtocolName", "read_table"]
