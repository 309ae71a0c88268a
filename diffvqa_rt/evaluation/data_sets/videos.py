"""Readers of the video data sets that DiffVQA is evaluated on (§4.1), each in its published file layout."""

import logging
from pathlib import Path

from diffvqa_rt.evaluation.data_sets.data_set import DataSet
from diffvqa_rt.evaluation.data_sets.files import find_file, parse_flag, read_matlab, read_sheet
from diffvqa_rt.evaluation.mos_table import MosTableBuilder, SourceRow, read_csv

logger = logging.getLogger(__name__)


def read_konvid_1k(folder: Path, table: MosTableBuilder) -> None:
    """KoNViD-1k: 1,200 videos of 960×540, MOS 1 … 5.

        KoNViD_1k_videos/<flickr_id>.mp4                   earlier <flickr_id>_original_centercrop_960x540_8s.mp4
        KoNViD_1k_metadata/KoNViD_1k_mos.csv               flickr_id,mos
        KoNViD_1k_metadata/KoNViD_1k_attributes.csv        flickr_id,…,file_name,MOS,…; read where the other is missing

    The tables may also lie in the folder itself. Source: the two archives' names from the database's page
    (https://database.mmsp-kn.de/konvid-1k-database.html), the columns from readers; the original files were not seen.
    Paper: Hosu et al., QoMEX 2017.
    """
    names = ("KoNViD_1k_mos.csv", "KoNViD_1k_attributes.csv")
    path = find_file(folder, [place + name for name in names for place in ("KoNViD_1k_metadata/", "")])
    for row in read_csv(path, ["flickr_id", "mos"]):
        number = row.cells["flickr_id"]
        files = [f"{number}.mp4", f"{number}_original_centercrop_960x540_8s.mp4"]
        table.add(row.where, number, row.cells["mos"], [folder / "KoNViD_1k_videos" / file for file in files])


def read_live_vqc(folder: Path, table: MosTableBuilder) -> None:
    """LIVE-VQC: 585 videos of many sizes, MOS 0 … 100.

        data.mat        video_list, a cell column of names such as A001.mp4; mos, a column of numbers
        Video/A001.mp4

    A row's number in `video_list` counts from 1, as MATLAB does. Source: readers (several, in MATLAB and Python,
    agree); the original archive needs a password and was not seen. Paper: Sinno and Bovik, TIP 2019.
    """
    path = find_file(folder, ["data.mat"])
    names, opinions = read_matlab(path, ["video_list", "mos"])
    for number, (name, opinion) in enumerate(zip(names, opinions, strict=True), 1):
        where = f"{path}, row {number} of video_list"
        # What is no text or number (a nested cell) has a text too, and the builder refuses it by that.
        table.add(where, str(name).strip(), str(opinion), [folder / "Video" / str(name).strip()])


def read_youtube_ugc(folder: Path, table: MosTableBuilder) -> None:
    """YouTube-UGC: about 1,500 clips of 20 s, MOS 1 … 5 (`MOS full`, of the whole clip).

        MOS_for_YouTube_UGC_dataset.xlsx                          sheet MOS: vid, MOS full, …
        original_videos/Gaming/720P/Gaming_720P-25aa.mkv          or, of the H.264 edition,
        original_videos_h264/Gaming_720P-25aa_crf_10_ss_00_t_20.0.mp4

    The table may also lie in `original_videos/`, bear that folder's name as a prefix (as browsers save it), or be a CSV
    file with the sheet's columns. Videos may lie flat in any of these folders. Rows whose `MOS full` is empty are left
    out with a warning, as readers do. Source: file names, editions and range from the authors' page
    (https://media.withgoogle.com/ugc-dataset), the sheet and its columns and the paths from readers; the original file
    was not seen. Paper: Wang et al., MMSP 2019.
    """
    stem = "MOS_for_YouTube_UGC_dataset"
    stems = [stem, f"original_videos/{stem}", f"original_videos_{stem}"]
    path = find_file(folder, [f"{stem}.{suffix}" for suffix in ("xlsx", "csv") for stem in stems])
    columns = ["vid", "mos full"]
    without_opinion = 0
    for row in read_sheet(path, "MOS", columns) if path.suffix == ".xlsx" else read_csv(path, columns):
        name, opinion = row.cells["vid"], row.cells["mos full"]
        if not opinion:
            without_opinion += 1
            continue
        category, _, rest = name.partition("_")
        h264 = f"{name}_crf_10_ss_00_t_20.0.mp4"
        places = [
            f"original_videos/{category}/{rest.partition('-')[0]}/{name}.mkv",
            f"original_videos_h264/{h264}",
            *(f"{place}{file}" for place in ("original_videos/", "") for file in (f"{name}.mkv", f"{name}.mp4", h264)),
        ]
        table.add(row.where, name, opinion, [folder / place for place in places])
    if without_opinion:
        logger.warning("%s: %d rows have no `MOS full` and are left out", path, without_opinion)


def read_lsvq(folder: Path, table: MosTableBuilder) -> None:
    """LSVQ: 38,811 videos, MOS 0 … 100, with published splits: `train`, `test` and `1080p`.

        labels_train_test.csv      name,p1,…,mos,…,is_test,is_valid: `train` where is_test is False, else `test`
        labels_test_1080p.csv      name,p1,…,mos,…,is_valid: `1080p`
        ia-batch1/….mp4            `name` is the path without its suffix
        yfcc-batch1/….mp4

    One of the tables is enough. `is_valid` is not read: all rows count.
    Source: file names, `name`, `mos` and `is_test` from the authors' repository (https://github.com/baidut/PatchVQ,
    README.md and json/LSVQ.json); the header and the values' form from the copies of these tables in
    https://github.com/sunwei925/SimpleVQA. Paper: Ying et al., CVPR 2021.
    """
    train_test, hd = folder / "labels_train_test.csv", folder / "labels_test_1080p.csv"
    if not hd.is_file() or train_test.is_file():
        for row in read_csv(find_file(folder, [train_test.name]), ["name", "mos", "is_test"]):
            split = "test" if parse_flag(row, "is_test") else "train"
            _add_lsvq_row(row, split, folder, table)
    if hd.is_file():
        for row in read_csv(hd, ["name", "mos"]):
            _add_lsvq_row(row, "1080p", folder, table)


def _add_lsvq_row(row: SourceRow, split: str, folder: Path, table: MosTableBuilder) -> None:
    name = row.cells["name"]
    table.add(row.where, name, row.cells["mos"], [folder / f"{name}.mp4"], split=split)


def read_kvq(folder: Path, table: MosTableBuilder) -> None:
    """KVQ: 4,200 short-form videos, in the split of the NTIRE 2024 challenge: 2,926, 420 and 854.

        train_data.csv    filename,score: `train`
        truth.csv         filename,score: `validation` (also as val_data.csv)
        test_data.csv     filename,score: `test`
        train/…, val/…, test/…, or the videos beside the tables

    At least one of the tables. Source: `filename,score` and truth.csv from the authors' metric_score.py
    (https://github.com/lixinustc/KVQ-Challenge-CVPR-NTIRE2024), the sizes from arXiv:2404.11313, the other names and
    the folders from readers. Not verified: the opinions' range, so that a table's lowest and highest are taken; and
    that opinions of the test videos were published in this form. The split of DiffVQA's Table 3 is not published.
    Paper: Lu et al., CVPR 2024.
    """
    tables = [("train_data.csv", "train"), ("truth.csv", "validation"), ("test_data.csv", "test")]
    if not (folder / "truth.csv").is_file():
        tables[1] = ("val_data.csv", "validation")
    found = [(folder / file, split) for file, split in tables if (folder / file).is_file()]
    if not found:
        find_file(folder, ["train_data.csv", "truth.csv", "val_data.csv", "test_data.csv"])
    for path, split in found:
        short = {"validation": "val"}.get(split, split)
        for row in read_csv(path, ["filename", "score"]):
            name = row.cells["filename"]
            table.add(row.where, name, row.cells["score"], [folder / short / name, folder / name], split=split)


VIDEO_SETS: dict[str, DataSet] = {
    "konvid-1k": DataSet(
        title="KoNViD-1k",
        kind="video",
        layout="KoNViD_1k_metadata/KoNViD_1k_mos.csv, KoNViD_1k_videos/",
        mos_range=(1.0, 5.0),
        read=read_konvid_1k,
    ),
    "live-vqc": DataSet(
        title="LIVE-VQC",
        kind="video",
        layout="data.mat, Video/",
        mos_range=(0.0, 100.0),
        read=read_live_vqc,
    ),
    "youtube-ugc": DataSet(
        title="YouTube-UGC",
        kind="video",
        layout="MOS_for_YouTube_UGC_dataset.xlsx, original_videos/ or original_videos_h264/",
        mos_range=(1.0, 5.0),
        read=read_youtube_ugc,
    ),
    "lsvq": DataSet(
        title="LSVQ",
        kind="video",
        layout="labels_train_test.csv, labels_test_1080p.csv, ia-batch1/ …",
        mos_range=(0.0, 100.0),
        protocol="published",
        read=read_lsvq,
    ),
    "kvq": DataSet(
        title="KVQ",
        kind="video",
        layout="train_data.csv, truth.csv, test_data.csv, train/ …",
        mos_range=None,
        protocol="published",
        read=read_kvq,
    ),
}
