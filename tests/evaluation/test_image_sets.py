"""Image data sets in their published layouts: pictures, opinions, contents, and which way up the opinions are."""

import re
import sys

import image_sets
import openpyxl
import pytest
from image_sets import (
    WRITERS,
    write_clive_tables,
    write_csiq,
    write_kadid_10k,
    write_koniq_10k,
    write_live_tables,
    write_spaq,
)
from opinions import write

from diffvqa_rt.errors import MosTableError
from diffvqa_rt.evaluation.data_sets import DATA_SETS, read_table
from diffvqa_rt.evaluation.data_sets.authentic_images import AUTHENTIC_IMAGE_SETS
from diffvqa_rt.evaluation.data_sets.distorted_images import DISTORTED_IMAGE_SETS
from diffvqa_rt.extras import install_command

# Of each set: the rows of its small tree by name: file, opinion (high is good), content, reference, distortion.
ROWS = {
    "live": {
        # 112 − 3 − DMOS.
        "jp2k/img2.bmp": ("jp2k/img2.bmp", 39.0, "bikes.bmp", "refimgs/bikes.bmp", "JP2K"),
        "wn/img174.bmp": ("wn/img174.bmp", 88.5, "bikes.bmp", "refimgs/bikes.bmp", "WN"),
        "fastfading/img1.bmp": ("fastfading/img1.bmp", 111.64, "sea.bmp", "refimgs/sea.bmp", "FF"),
    },
    "csiq": {
        "1600.AWGN.1.png": ("dst_imgs/AWGN/1600.AWGN.1.png", 0.938011, "1600", "src_imgs/1600.png", "WN"),
        "child_swimming.jpeg2000.5.png": (
            "dst_imgs/jpeg2000/child_swimming.jpeg2000.5.png",
            0.1,
            "child_swimming",
            "src_imgs/child_swimming.png",
            "JP2K",
        ),
    },
    "tid2013": {
        "I01_01_1.BMP": ("distorted_images/i01_01_1.bmp", 5.51429, "I01", "reference_images/I01.BMP", "01"),
        "I01_24_5.BMP": ("distorted_images/i01_24_5.bmp", 0.24, "I01", "reference_images/I01.BMP", "24"),
        "I25_01_1.BMP": ("distorted_images/i25_01_1.bmp", 7.2, "I25", "reference_images/I25.BMP", "01"),
    },
    "kadid-10k": {
        "I01_01_01.png": ("images/I01_01_01.png", 4.57, "I01.png", "images/I01.png", "01"),
        "I01_25_05.png": ("images/I01_25_05.png", 1.13, "I01.png", "images/I01.png", "25"),
    },
    "pipal": {
        "A0001_00_00.bmp": ("Distortion_1/A0001_00_00.bmp", 1520.0648, "A0001", "Train_Ref/A0001.bmp", "00"),
        "A0001_06_20.bmp": ("Distortion_2/A0001_06_20.bmp", 916.7136, "A0001", "Train_Ref/A0001.bmp", "06"),
        "A0002_00_00.bmp": ("Distortion_3/A0002_00_00.bmp", 1835.9856, "A0002", "Train_Ref/A0002.bmp", "00"),
    },
    "clive": {
        "3.bmp": ("Images/3.bmp", 63.9634, None, None, None),
        "1169.JPG": ("Images/1169.JPG", 10.5, None, None, None),
    },
    "koniq-10k": {
        "10004473376.jpg": ("1024x768/10004473376.jpg", 3.91, None, None, None),
        "10007357496.jpg": ("1024x768/10007357496.jpg", 1.1, None, None, None),
    },
    "spaq": {
        "00001.jpg": ("TestImage/00001.jpg", 48.86, None, None, None),
        "00002.jpg": ("TestImage/00002.jpg", 62.5, None, None, None),
    },
    "live-fb": {
        "VOC2012/JPEGImages__2009_004012.jpg": (
            "database/VOC2012/JPEGImages__2009_004012.jpg",
            72.2,
            None,
            None,
            None,
        ),
        "AVA__database/124.jpg": ("database/AVA__database/124.jpg", 31.75, None, None, None),
    },
}


def test_every_image_set_has_a_test():
    assert set(ROWS) == set(WRITERS) == {*DISTORTED_IMAGE_SETS, *AUTHENTIC_IMAGE_SETS}
    assert {name for name, each in DATA_SETS.items() if each.kind == "image"} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_published_layout_is_read(tmp_path, name):
    WRITERS[name](tmp_path)
    table = read_table(name, tmp_path, require_videos=name != "clive")  # whose other pictures are not there
    rows = {row.name: row for row in table.rows if "absent" not in row.name}
    assert list(rows) == list(ROWS[name])
    for key, (file, mos, content, reference, distortion) in ROWS[name].items():
        row = rows[key]
        assert row.video == tmp_path / file and row.video.is_file()
        assert row.mos == pytest.approx(mos, rel=1e-12)
        assert (row.content, row.distortion, row.split) == (content, distortion, None)
        assert row.reference == (tmp_path / reference if reference else None)
    assert (table.name, table.title, table.kind) == (name, DATA_SETS[name].title, "image")


# The best and the worst opinion that the files of a set may hold, as its authors mean them.
BEST_AND_WORST = {
    "live": (-2.64, 111.77),
    "csiq": (0.0, 1.0),
    "tid2013": (7.2143, 0.24242),
    "kadid-10k": (4.93, 1.0),
    "pipal": (1835.9856, 916.7136),
    "clive": (92.432, 3.42),
    "koniq-10k": (4.31, 1.0962),
    "spaq": (96.0, 2.0),
    "live-fb": (90.0, 2.0),
}


@pytest.mark.parametrize("name", BEST_AND_WORST)
def test_high_is_good_on_the_declared_range(tmp_path, name):
    """DMOS falls with quality in LIVE and CSIQ; KADID-10k's column of that name rises."""
    best, worst = BEST_AND_WORST[name]
    pictures = {
        "live": ("jp2k/img1.bmp", "jpeg/img1.bmp"),
        "csiq": ("a.BLUR.1.png", "a.BLUR.5.png"),
        "kadid-10k": ("I01_01_01.png", "I01_01_05.png"),
        "tid2013": ("i01_01_1.bmp", "i01_01_5.bmp"),
        "pipal": ("A0001_00_00.bmp", "A0001_00_01.bmp"),
    }.get(name, ("1.jpg", "2.jpg"))
    opinions = dict(zip(pictures, (best, worst), strict=True))
    write_set = getattr(image_sets, f"write_{name.replace('-', '_')}")
    write_set(tmp_path, {key: (dmos, "sea.bmp") for key, dmos in opinions.items()} if name == "live" else opinions)
    table = read_table(name, tmp_path, require_videos=False)
    good, bad = table.rows[:2]
    low, high = table.mos_range
    assert low <= bad.mos < good.mos <= high


def test_live_has_982_rows_of_which_those_of_references_are_dropped(tmp_path):
    # As published: 203 of them.
    are_references = [number % 982 < 203 for number in range(982)]
    write_live_tables(tmp_path, [50.0] * 982, are_references, ["sea.bmp"] * 982)
    table = read_table("live", tmp_path, require_videos=False)
    assert len(table.rows) == 779 and table.rows[0].name == "jp2k/img204.bmp"


def test_clives_seven_practice_pictures_are_dropped(tmp_path):
    names = [f"t{number}.bmp" for number in range(1, 8)] + [f"{number}.bmp" for number in range(8, 1170)]
    write_clive_tables(tmp_path, names, [50.0] * 1169)
    table = read_table("clive", tmp_path, require_videos=False)
    assert len(table.rows) == 1162 and table.rows[0].name == "8.bmp"


def test_pictures_are_found_in_their_other_places_and_whatever_their_case(tmp_path):
    write_csiq(tmp_path / "csiq", {"1600.AWGN.1.png": 0.1}, place="dst_imgs_all")
    assert read_table("csiq", tmp_path / "csiq").rows[0].video == tmp_path / "csiq/dst_imgs_all/1600.AWGN.1.png"
    write_csiq(tmp_path / "other", {"1600.JPEG.1.png": 0.1}, place="DST_imgs/jpeg")
    assert read_table("csiq", tmp_path / "other").rows[0].video == tmp_path / "other/DST_imgs/jpeg/1600.JPEG.1.png"
    write_koniq_10k(tmp_path / "koniq", {"1.jpg": 2.0}, place="512x384")
    assert read_table("koniq-10k", tmp_path / "koniq").rows[0].video == tmp_path / "koniq/512x384/1.jpg"
    (tmp_path / "koniq/512x384/1.jpg").rename(tmp_path / "koniq/512x384/1.JPG")
    write(tmp_path / "koniq/1024x768/1.Jpg")
    assert read_table("koniq-10k", tmp_path / "koniq").rows[0].video == tmp_path / "koniq/1024x768/1.Jpg"


def test_spaqs_table_may_be_a_csv_file_and_its_pictures_are_to_be_shrunk(tmp_path):
    write(tmp_path / "Annotations/MOS and Image attribute scores.csv", "Image name,MOS\n00001.jpg,50\n")
    write(tmp_path / "TestImage/00001.jpg")
    table = read_table("spaq", tmp_path)
    assert table.rows[0].mos == 50.0 and table.short_side == 512


@pytest.mark.parametrize("name", ROWS)
def test_a_missing_picture_is_named_with_its_place_in_the_table(tmp_path, name):
    WRITERS[name](tmp_path)
    file = next(iter(ROWS[name].values()))[0]
    (tmp_path / file).unlink()
    # TID2013's table has another case than its files.
    with pytest.raises(MosTableError, match=rf"(?i), (line|row) \d+.*: the image {tmp_path / file} is not there"):
        read_table(name, tmp_path)


WANTED = {
    "live": "dmos_realigned.mat",
    "csiq": "csiq_label.txt",
    "tid2013": "mos_with_names.txt",
    "kadid-10k": "dmos.csv",
    "pipal": "folder Train_Label",
    "clive": "Data/AllImages_release.mat",
    "koniq-10k": "koniq10k_scores_and_distributions.csv",
    "spaq": "Annotations/MOS and Image attribute scores.xlsx",
    "live-fb": "labels_image.csv",
}


@pytest.mark.parametrize("name", WANTED)
def test_a_wrong_folder_says_what_was_looked_for(tmp_path, name):
    with pytest.raises(MosTableError, match=f"^{tmp_path} has no {WANTED[name]}"):
        read_table(name, tmp_path)
    with pytest.raises(MosTableError, match=f"^{tmp_path}/absent is not a folder$"):
        read_table(name, tmp_path / "absent")


BROKEN_TEXT = {
    "no number": ("csiq", "csiq_label.txt", "1600.AWGN.1.png good\n", "line 1: the DMOS is 'good'; expected a number"),
    "one word": ("csiq", "csiq_label.txt", "\n1600.AWGN.1.png\n", r"line 2: 1 words; expected 2 \(name, dmos\)"),
    "no type": ("csiq", "csiq_label.txt", "1600.png 0.1\n", "line 1: '1600.png' names no distortion of CSIQ's"),
    "DMOS of LIVE's": ("csiq", "csiq_label.txt", "1600.AWGN.1.png 51\n", "the DMOS is 51; CSIQ's lie on 0 … 1"),
    "MOS of LIVE's": ("tid2013", "mos_with_names.txt", "51 I01_01_1.bmp\n", "the MOS is 51; TID2013's lie on 0 … 9"),
    "no level": ("tid2013", "mos_with_names.txt", "5 I01_01.bmp\n", "'I01_01.bmp' is not a name like i01_01_1.bmp"),
    "swapped": ("tid2013", "mos_with_names.txt", "I01_01_1.bmp 5.1\n", "line 1: '5.1' is not a name like"),
    "no column": ("kadid-10k", "dmos.csv", "dist_img,ref_img,mos\n", "expected one column 'dmos'; the header has"),
    "no MOS": (
        "koniq-10k",
        "koniq10k_scores_and_distributions.csv",
        "image_name,MOS_zscore\n",
        "expected one column 'mos'",
    ),
    "z-scores": (
        "koniq-10k",
        "koniq10k_scores_and_distributions.csv",
        "image_name,MOS\n1.jpg,67.2\n",
        "line 2: the MOS is 67.2; KonIQ-10k's lie on 1 … 5",
    ),
    "no Elo": ("pipal", "Train_Label/A0001.txt", "A0001_00_00.bmp\n", r"line 1: 1 words; expected 2 \(name, elo\)"),
    "no labels": ("pipal", "Train_Label/readme.md", "", "has no rows"),
    "twice": ("live-fb", "labels_image.csv", "name,mos\na/1.jpg,1\na/1.jpg,2\n", "line 3: a/1.jpg appears twice"),
}


@pytest.mark.parametrize("case", BROKEN_TEXT)
def test_a_broken_table_is_refused_with_its_line(tmp_path, case):
    name, file, text, sentence = BROKEN_TEXT[case]
    write(tmp_path / file, text)
    with pytest.raises(MosTableError, match=sentence) as error:
        read_table(name, tmp_path, require_videos=False)
    assert "\n" not in str(error.value)


def test_broken_matlab_files_and_workbooks_are_refused(tmp_path):
    write_live_tables(tmp_path, [50.0] * 779, [False] * 779, ["sea.bmp"] * 982)
    with pytest.raises(MosTableError, match=r"dmos_realigned\.mat: dmos_new has 779 rows; expected 982, one for each"):
        read_table("live", tmp_path)
    write_live_tables(tmp_path, [50.0] * 982, [False] * 982, ["sea.bmp"] * 779)
    with pytest.raises(MosTableError, match=r"refnames_all\.mat: refnames_all has 779 rows; expected 982"):
        read_table("live", tmp_path)
    write_live_tables(tmp_path, [50.0] * 982, [2] * 982, ["sea.bmp"] * 982)
    with pytest.raises(MosTableError, match=r"row 1 of dmos_new: orgs is 2; expected 0 or 1"):
        read_table("live", tmp_path)
    write_clive_tables(tmp_path, ["1.bmp"] * 1162, [50.0] * 1169)
    with pytest.raises(MosTableError, match=r"AllImages_release\.mat has 1162 rows; expected 1169, of which 7 are for"):
        read_table("clive", tmp_path)
    write_spaq(tmp_path, {"00001.jpg": 50.0})
    path = tmp_path / "Annotations/MOS and Image attribute scores.xlsx"
    book = openpyxl.load_workbook(path)
    book.active["B1"] = "Score"
    book.save(path)
    with pytest.raises(
        MosTableError, match="row 1 of sheet Sheet: expected one column 'mos'; the header has: image name"
    ):
        read_table("spaq", tmp_path)


@pytest.mark.parametrize(("name", "package"), [("live", "scipy.io"), ("spaq", "openpyxl")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name, package):
    WRITERS[name](tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MosTableError, match=rf"needs (SciPy|openpyxl), which .*: {re.escape(install_command('train'))}$"
    ):
        read_table(name, tmp_path)


def test_a_reference_need_not_be_there(tmp_path):
    write_kadid_10k(tmp_path, {"I01_01_01.png": 3.0})
    (row,) = read_table("kadid-10k", tmp_path).rows
    assert row.reference == tmp_path / "images/I01.png" and not row.reference.exists()
