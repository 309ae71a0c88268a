"""The reader of a user's own table."""

from pathlib import Path

from diffvqa_rt.evaluation.mos_table import MosTableBuilder, read_csv


def read_plain_csv(source: Path, table: MosTableBuilder) -> None:
    """A CSV file with the columns `video,mos` and, where wanted, `split` and `content`.

    `video` is a path, relative to the CSV file's folder or absolute. `split` is `train`, `validation`, or any name for
    what models are tested on. Videos of one `content` (a pristine clip's distorted copies, say) stay together in random
    splits.
    """
    for row in read_csv(source, ["video", "mos"]):
        cells = row.cells
        path = source.parent / cells["video"]
        split, content = cells.get("split") or None, cells.get("content") or None
        table.add(row.where, cells["video"], cells["mos"], [path], split=split, content=content)
