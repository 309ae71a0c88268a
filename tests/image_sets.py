"""Small trees in the layouts of the image data sets: files that are empty or what a test gives, and tables."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import openpyxl
import scipy.io
from opinions import write

LIVE_COUNTS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
CLIVE_PRACTICE = [f"t{number}.bmp" for number in range(1, 8)]

TextRows = Mapping[str, float]
"""Opinions by the names that a set's table has."""


def write_live(folder: Path, distorted: Mapping[str, tuple[float, str]]) -> None:
    """A LIVE of these pictures, each with its DMOS and reference; all the others are references, which nobody rates."""
    names = [f"{place}/img{number}.bmp" for place, count in LIVE_COUNTS.items() for number in range(1, count + 1)]
    assert distorted.keys() <= set(names)
    dmos = [distorted[name][0] if name in distorted else 0.0 for name in names]
    references = [distorted[name][1] if name in distorted else "ocean.bmp" for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    write_live_tables(folder, dmos, [name not in distorted for name in names], references)
    for name in distorted:
        write(folder / name)


def write_live_tables(folder: Path, dmos: list[float], are_references: list[bool], references: list[str]) -> None:
    orgs = np.array([are_references], np.uint8)
    scipy.io.savemat(folder / "dmos_realigned.mat", {"dmos_new": np.array([dmos]), "orgs": orgs})
    scipy.io.savemat(folder / "refnames_all.mat", {"refnames_all": np.array([references], object)})


def write_csiq(folder: Path, opinions: TextRows, place: str = "dst_imgs/{kind}") -> None:
    write(folder / "csiq_label.txt", "".join(f"{name}\t{dmos}\n" for name, dmos in opinions.items()))
    for name in opinions:
        write(folder / place.format(kind=name.split(".")[1]) / name)


def write_tid2013(folder: Path, opinions: TextRows) -> None:
    """The table has the names in upper case, as the published one has."""
    write(folder / "mos_with_names.txt", "".join(f"{mos} {name.upper()}\n" for name, mos in opinions.items()))
    for name in opinions:
        write(folder / "distorted_images" / name)
        write(folder / "reference_images" / f"{name[:3].upper()}.BMP")


def write_kadid_10k(folder: Path, opinions: TextRows) -> None:
    lines = [f"{name},{name[:3]}.png,{dmos},0.1\n" for name, dmos in opinions.items()]
    write(folder / "dmos.csv", "dist_img,ref_img,dmos,var\n" + "".join(lines))
    for name in opinions:
        write(folder / "images" / name)


def write_pipal(folder: Path, opinions: TextRows) -> None:
    """The pictures are dealt out over the four folders."""
    (folder / "Train_Label").mkdir(parents=True, exist_ok=True)
    for number, (name, elo) in enumerate(opinions.items()):
        with (folder / "Train_Label" / f"{name[:5]}.txt").open("a") as file:
            file.write(f"{name},{elo}\n")
        write(folder / f"Distortion_{number % 4 + 1}" / name)


def write_clive(folder: Path, opinions: TextRows) -> None:
    """A CLIVE of these pictures, after its 7 for practice and before those that are not there, up to 1,169."""
    fill = {f"absent{number}.bmp": 50.0 for number in range(1169 - 7 - len(opinions))}
    names = [*CLIVE_PRACTICE, *opinions, *fill]
    mos = [99.0] * 7 + [*opinions.values(), *fill.values()]
    write_clive_tables(folder, names, mos)
    for name in opinions:
        write(folder / "Images" / name)


def write_clive_tables(folder: Path, names: list[str], mos: list[float]) -> None:
    (folder / "Data").mkdir(parents=True, exist_ok=True)
    cells = np.array([[name] for name in names], object)
    scipy.io.savemat(folder / "Data/AllImages_release.mat", {"AllImages_release": cells})
    scipy.io.savemat(folder / "Data/AllMOS_release.mat", {"AllMOS_release": np.array([mos])})


def write_koniq_10k(folder: Path, opinions: TextRows, place: str = "1024x768") -> None:
    """`MOS_zscore`, which is not to be read, is upside down."""
    lines = [f'"{name}",0,0,3,2,0,5,{mos},0.5,{100 - 20 * mos}\n' for name, mos in opinions.items()]
    header = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,MOS_zscore\n"
    write(folder / "koniq10k_scores_and_distributions.csv", header + "".join(lines))
    for name in opinions:
        write(folder / place / name)


def write_spaq(folder: Path, opinions: TextRows) -> None:
    book = openpyxl.Workbook()
    book.active.append(["Image name", "MOS", "Brightness"])
    for name, mos in opinions.items():
        book.active.append([name, mos, 50])
        write(folder / "TestImage" / name)
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    book.save(folder / "Annotations/MOS and Image attribute scores.xlsx")


def write_live_fb(folder: Path, opinions: TextRows) -> None:
    lines = [f"{name},{mos},True\n" for name, mos in opinions.items()]
    write(folder / "labels_image.csv", "name,mos,is_valid\n" + "".join(lines))
    for name in opinions:
        write(folder / "database" / name)


WRITERS: dict[str, Callable[[Path], None]] = {
    "live": lambda folder: write_live(
        folder,
        {
            "jp2k/img2.bmp": (70.0, "bikes.bmp"),
            "wn/img174.bmp": (20.5, "bikes.bmp"),
            "fastfading/img1.bmp": (-2.64, "sea.bmp"),
        },
    ),
    "csiq": lambda folder: write_csiq(folder, {"1600.AWGN.1.png": 0.061989, "child_swimming.jpeg2000.5.png": 0.9}),
    "tid2013": lambda folder: write_tid2013(
        folder, {"i01_01_1.bmp": 5.51429, "i01_24_5.bmp": 0.24, "i25_01_1.bmp": 7.2}
    ),
    "kadid-10k": lambda folder: write_kadid_10k(folder, {"I01_01_01.png": 4.57, "I01_25_05.png": 1.13}),
    "pipal": lambda folder: write_pipal(
        folder, {"A0001_00_00.bmp": 1520.0648, "A0001_06_20.bmp": 916.7136, "A0002_00_00.bmp": 1835.9856}
    ),
    "clive": lambda folder: write_clive(folder, {"3.bmp": 63.9634, "1169.JPG": 10.5}),
    "koniq-10k": lambda folder: write_koniq_10k(folder, {"10004473376.jpg": 3.91, "10007357496.jpg": 1.1}),
    "spaq": lambda folder: write_spaq(folder, {"00001.jpg": 48.86, "00002.jpg": 62.5}),
    "live-fb": lambda folder: write_live_fb(
        folder, {"VOC2012/JPEGImages__2009_004012.jpg": 72.2, "AVA__database/124.jpg": 31.75}
    ),
}
"""A small tree of each set."""
