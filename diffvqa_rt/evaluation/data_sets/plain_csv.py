"""The reader of a user's own table."""

from pathlib import Path

from diffvqa_rt.evaluation.mos_table import MosTableBuilder, read_csv


def read_plain_csv(source: Path, table: MosTableBuilder) -> None:
    """A CSV file with the columns `video,mos` and, where wanted, `split`, `content`, `prompt` and `generator`.

    `video` is a path, relative to the CSV file's folder or absolute. `split` is `train`, `validation`, or any name for
    what models are tested on. Videos of one `content` (a pristine clip's distorted copies, say) stay together in random
    splits; without that column, videos of one `prompt` do. `generator` is the model that made the video.
    """
    for row in read_csv(source, ["video", "mos"]):
        cells = row.cells
        path = source.parent / cells["video"]
        table.add(
            row.where,
            cells["video"],
            cells["mos"],
            [path],
            split=cells.get("split") or None,
            content=cells.get("content"),
            prompt=cells.get("prompt"),
            generator=cells.get("generator"),
        )
