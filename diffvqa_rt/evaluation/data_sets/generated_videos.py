"""Readers of data sets of generated videos, whose rows have prompts, each in its published file layout."""

from pathlib import Path

from diffvqa_rt.errors import MosTableError
from diffvqa_rt.evaluation.data_sets.data_set import DataSet
from diffvqa_rt.evaluation.data_sets.files import find_file
from diffvqa_rt.evaluation.mos_table import MosTableBuilder, read_text


def read_t2vqa_db(folder: Path, table: MosTableBuilder) -> None:
    """T2VQA-DB: 10,000 videos of 1,000 prompts, 512×512, 16 frames at 4 fps, MOS 0 … 100.

        info.txt          no header, a line a video: name.mp4|prompt|mos; a prompt may have bars too
        name.mp4          or T2VQA-DB/name.mp4

    Source: readers (https://github.com/QMME/T2VQA, dataset/dataset.py); the original archive was not seen. The table
    does not say which model made a video. Paper: Kou et al., arXiv:2403.11956.
    """
    path = find_file(folder, ["info.txt"])
    # By \n alone: a prompt may hold what `splitlines` takes for the end of a line.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        name, first_bar, rest = line.partition("|")
        prompt, last_bar, opinion = rest.rpartition("|")
        if not (first_bar and last_bar and prompt.strip()):
            raise MosTableError(f"{where}: expected name|prompt|mos; found {line.strip()[:80]!r}")
        name = name.strip()
        table.add(where, name, opinion.strip(), [folder / name, folder / "T2VQA-DB" / name], prompt=prompt.strip())


GENERATED_VIDEO_SETS: dict[str, DataSet] = {
    "t2vqa-db": DataSet(
        title="T2VQA-DB",
        kind="video",
        layout="info.txt, the videos beside it or in T2VQA-DB/",
        mos_range=(0.0, 100.0),
        read=read_t2vqa_db,
    ),
}
