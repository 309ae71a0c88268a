"""Data sets in their published layouts, read from small folders; what is wrong with one is said with file and line."""

import re
from pathlib import Path

import numpy as np
import openpyxl
import pytest
import scipy.io
from opinions import write

from diffvqa_rt.errors import MosTableError
from diffvqa_rt.evaluation.data_sets import DATA_SETS, read_table
from diffvqa_rt.evaluation.data_sets.generated_videos import GENERATED_VIDEO_SETS
from diffvqa_rt.evaluation.data_sets.videos import VIDEO_SETS

LSVQ_HEADER = "name,p1,height,width,mos_p1,mos,frame_number,is_test,is_valid"


def write_konvid(folder: Path) -> None:
    write(folder / "KoNViD_1k_metadata/KoNViD_1k_mos.csv", '"flickr_id","mos"\n3339962845,3.46\n2999049224,1.2\n')
    write(folder / "KoNViD_1k_videos/3339962845.mp4")
    write(folder / "KoNViD_1k_videos/2999049224_original_centercrop_960x540_8s.mp4")


def write_live_vqc(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = np.array([["A001.mp4"], ["A002.mp4"]], dtype=object)
    scipy.io.savemat(folder / "data.mat", {"video_list": names, "mos": np.array([[80.3], [12.5]])})
    write(folder / "Video/A001.mp4")
    write(folder / "Video/A002.mp4")


def write_youtube_ugc(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    book.active.title = "readme"
    sheet = book.create_sheet("MOS")
    sheet.append(["vid", "MOS full", "MOS chunk00"])
    sheet.append(["Gaming_720P-25aa", 4.1, 4.0])
    sheet.append(["HowTo_480P-4c99", 2.25, None])
    sheet.append(["Vlog_2160P-0001", 3, 3])
    book.save(folder / "MOS_for_YouTube_UGC_dataset.xlsx")
    write(folder / "original_videos/Gaming/720P/Gaming_720P-25aa.mkv")
    write(folder / "original_videos_h264/HowTo_480P-4c99_crf_10_ss_00_t_20.0.mp4")
    write(folder / "Vlog_2160P-0001.mkv")


def write_lsvq(folder: Path) -> None:
    lines = [
        LSVQ_HEADER,
        'yfcc-batch1/747,"[15, 527]",720,1280,57.9,67.75,200,True,True',
        'ia-batch1/youtube-X4iI,"[0, 1]",540,960,1,8.5,200,False,True',
    ]
    write(folder / "labels_train_test.csv", "\n".join(lines) + "\n")
    write(folder / "labels_test_1080p.csv", "name,mos,is_valid\nyfcc-batch1/722,78.77,False\n")
    for name in ("yfcc-batch1/747", "ia-batch1/youtube-X4iI", "yfcc-batch1/722"):
        write(folder / f"{name}.mp4")


def write_kvq(folder: Path) -> None:
    write(folder / "train_data.csv", "filename,score\n0001.mp4,3.5\n")
    write(folder / "truth.csv", "filename,score\n0002.mp4,2.0\n")
    write(folder / "test_data.csv", "filename,score\n0003.mp4,4.5\n")
    write(folder / "train/0001.mp4")
    write(folder / "val/0002.mp4")
    write(folder / "0003.mp4")


def write_plain(folder: Path) -> Path:
    write(folder / "clips/a.mp4")
    write(folder / "b.mp4")
    text = f"\ufeffVideo,MOS,split,content\nclips/a.mp4, 55.5 ,train,sea\n\n{folder}/b.mp4,70,,\n"
    return write(folder / "mine.csv", text)


def write_t2vqa_db(folder: Path) -> None:
    text = "\ufeff0001.mp4|A red ball, rolling|55.25\r\n\n0002.mp4|a | or\u2028 b |7\n"
    write(folder / "info.txt", text)
    write(folder / "0001.mp4")
    write(folder / "T2VQA-DB/0002.mp4")


# Of each data set: what writes it, and name, file, opinion and split of its rows.
LAYOUTS = {
    "konvid-1k": (
        write_konvid,
        [
            ("3339962845", "KoNViD_1k_videos/3339962845.mp4", 3.46, None),
            ("2999049224", "KoNViD_1k_videos/2999049224_original_centercrop_960x540_8s.mp4", 1.2, None),
        ],
    ),
    "live-vqc": (
        write_live_vqc,
        [("A001.mp4", "Video/A001.mp4", 80.3, None), ("A002.mp4", "Video/A002.mp4", 12.5, None)],
    ),
    "youtube-ugc": (
        write_youtube_ugc,
        [
            ("Gaming_720P-25aa", "original_videos/Gaming/720P/Gaming_720P-25aa.mkv", 4.1, None),
            ("HowTo_480P-4c99", "original_videos_h264/HowTo_480P-4c99_crf_10_ss_00_t_20.0.mp4", 2.25, None),
            ("Vlog_2160P-0001", "Vlog_2160P-0001.mkv", 3.0, None),
        ],
    ),
    "lsvq": (
        write_lsvq,
        [
            ("yfcc-batch1/747", "yfcc-batch1/747.mp4", 67.75, "test"),
            ("ia-batch1/youtube-X4iI", "ia-batch1/youtube-X4iI.mp4", 8.5, "train"),
            ("yfcc-batch1/722", "yfcc-batch1/722.mp4", 78.77, "1080p"),
        ],
    ),
    "kvq": (
        write_kvq,
        [
            ("0001.mp4", "train/0001.mp4", 3.5, "train"),
            ("0002.mp4", "val/0002.mp4", 2.0, "validation"),
            ("0003.mp4", "0003.mp4", 4.5, "test"),
        ],
    ),
    "t2vqa-db": (
        write_t2vqa_db,
        [("0001.mp4", "0001.mp4", 55.25, None), ("0002.mp4", "T2VQA-DB/0002.mp4", 7.0, None)],
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_layout_is_read(tmp_path, name):
    write_layout, expected = LAYOUTS[name]
    write_layout(tmp_path)
    table = read_table(name, tmp_path)
    assert [(row.name, row.video, row.mos, row.split) for row in table.rows] == [
        (video, tmp_path / path, mos, split) for video, path, mos, split in expected
    ]
    assert (table.name, table.title) == (name, DATA_SETS[name].title)


def test_a_plain_csv_is_read_whatever_its_byte_order_mark_case_and_blank_lines(tmp_path):
    table = read_table("csv", write_plain(tmp_path))
    first, second = table.rows
    assert (first.video, first.mos, first.split, first.content) == (tmp_path / "clips/a.mp4", 55.5, "train", "sea")
    assert (second.video, second.split, second.content) == (tmp_path / "b.mp4", None, None)
    assert (table.name, table.mos_range) == ("mine", (55.5, 70.0))
    assert read_table("csv", tmp_path / "mine.csv", mos_range=(0, 100)).mos_range == (0, 100)


def test_a_plain_csv_may_have_prompts_and_generators(tmp_path):
    text = 'video,prompt,generator,mos,content\na.mp4,"A ball, red",Gen-2,1,\nb.mp4,,,2,\nc.mp4,a cat,Gen-2,3,cats\n'
    rows = read_table("csv", write(tmp_path / "mine.csv", text), require_videos=False).rows
    assert [(row.prompt, row.generator) for row in rows] == [("A ball, red", "Gen-2"), (None, None), ("a cat", "Gen-2")]
    assert [row.content for row in rows] == ["A ball, red", None, "cats"]


def test_t2vqa_dbs_prompts_are_between_the_first_and_the_last_bar(tmp_path):
    write_t2vqa_db(tmp_path)
    rows = read_table("t2vqa-db", tmp_path).rows
    assert [row.prompt for row in rows] == ["A red ball, rolling", "a | or\u2028 b"]
    assert [row.content for row in rows] == [row.prompt for row in rows]


@pytest.mark.parametrize("line", ["0001.mp4", "0001.mp4|55", "0001.mp4||55", "0001.mp4| |55"])
def test_a_line_of_t2vqa_db_without_its_three_parts_is_refused(tmp_path, line):
    write(tmp_path / "info.txt", f"0000.mp4|a cat|1\n{line}\n")
    with pytest.raises(MosTableError, match=re.escape(f"line 2: expected name|prompt|mos; found {line!r}")):
        read_table("t2vqa-db", tmp_path, require_videos=False)


def test_every_video_set_has_a_test():
    assert {*VIDEO_SETS, *GENERATED_VIDEO_SETS} == set(LAYOUTS)


@pytest.mark.parametrize("missing", ["labels_train_test.csv", "labels_test_1080p.csv"])
def test_one_of_lsvqs_tables_is_enough(tmp_path, missing):
    write_lsvq(tmp_path)
    (tmp_path / missing).unlink()
    splits = {row.split for row in read_table("lsvq", tmp_path).rows}
    assert splits == ({"1080p"} if missing == "labels_train_test.csv" else {"train", "test"})


def test_konvids_other_table_and_youtube_ugcs_other_places_are_read(tmp_path):
    header = "flickr_id,blur,file_name,MOS,MOS_std\n"
    write(tmp_path / "KoNViD_1k_attributes.csv", header + "3339962845,0.5,x.mp4,2.5,0.4\n")
    write(tmp_path / "KoNViD_1k_videos/3339962845.mp4")
    assert read_table("konvid-1k", tmp_path).rows[0].mos == 2.5
    write(tmp_path / "original_videos_MOS_for_YouTube_UGC_dataset.csv", "vid,MOS full\nGaming_720P-25aa,4.5\n")
    write(tmp_path / "original_videos/Gaming_720P-25aa.mp4")
    (row,) = read_table("youtube-ugc", tmp_path).rows
    assert (row.mos, row.video) == (4.5, tmp_path / "original_videos/Gaming_720P-25aa.mp4")


def test_clips_of_youtube_ugc_without_an_opinion_are_left_out_aloud(tmp_path, caplog):
    text = "vid,MOS full\nGaming_720P-25aa,4.5\nGaming_720P-25ab,\n"
    write(tmp_path / "MOS_for_YouTube_UGC_dataset.csv", text)
    table = read_table("youtube-ugc", tmp_path, require_videos=False)
    assert [row.name for row in table.rows] == ["Gaming_720P-25aa"]
    assert "1 rows have no `MOS full` and are left out" in caplog.text


def test_a_missing_video_is_named_with_its_line_or_kept_where_files_are_not_needed(tmp_path):
    write_lsvq(tmp_path)
    (tmp_path / "ia-batch1/youtube-X4iI.mp4").unlink()
    sentence = r"labels_train_test\.csv, line 3: the video .*ia-batch1/youtube-X4iI\.mp4 is not there$"
    with pytest.raises(MosTableError, match=sentence):
        read_table("lsvq", tmp_path)
    (tmp_path / "yfcc-batch1/722.mp4").unlink()
    with pytest.raises(MosTableError, match=r"line 3: .* is not there, nor are 1 others of the table$"):
        read_table("lsvq", tmp_path)
    rows = read_table("lsvq", tmp_path, require_videos=False).rows
    assert rows[1].video == tmp_path / "ia-batch1/youtube-X4iI.mp4" and len(rows) == 3


BAD_CSV = {
    "no number": ("video,mos\na.mp4,good\n", "mine.csv, line 2: the MOS is 'good'; expected a number"),
    "nan": ("video,mos\na.mp4,nan\n", "line 2: the MOS is 'nan'; expected a number"),
    "infinite": ("video,mos\na.mp4,inf\n", "line 2: the MOS is 'inf'; expected a number"),
    "empty cell": ("video,mos\na.mp4,\n", "line 2: the MOS is ''; expected a number"),
    "no video": ("video,mos\na.mp4,1\n,2\n", "line 3: the row names no video"),
    "too few cells": ("video,mos\na.mp4,1\nb.mp4\n", "line 3: 1 cells, but the header has 2"),
    "too many cells": ("video,mos\na.mp4,1,2\n", "line 2: 3 cells, but the header has 2"),
    "twice": ("video,mos\na.mp4,1\n\na.mp4,2\n", r"line 4: a\.mp4 appears twice; first in .*mine\.csv, line 2"),
    "no column": ("video,score\na.mp4,1\n", "line 1: expected one column 'mos'; the header has: video, score"),
    "two columns": ("video,mos,MOS\na.mp4,1,2\n", "line 1: expected one column 'mos'"),
    "nothing": ("", "line 1: expected one column 'video'; the header has: nothing"),
    "no rows": ("video,mos\n\n", "mine.csv has no rows"),
    "open quote": ('video,mos\n"a.mp4,1\n', "not CSV"),
    "stray quote": ('video,mos\n"a.mp4"x,1\n', "line 2: not CSV"),
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_a_malformed_table_is_refused_with_its_line(tmp_path, name):
    text, sentence = BAD_CSV[name]
    write(tmp_path / "a.mp4")
    with pytest.raises(MosTableError, match=sentence) as error:
        read_table("csv", write(tmp_path / "mine.csv", text))
    assert "\n" not in str(error.value)


def test_a_line_number_is_the_editors_also_after_cells_with_line_breaks(tmp_path):
    text = 'video,mos,remark\na.mp4,1,"two\nlines"\nb.mp4,x,-\n'
    with pytest.raises(MosTableError, match="line 4: the MOS is 'x'"):
        read_table("csv", write(tmp_path / "mine.csv", text))


def test_text_of_another_encoding_is_refused_with_its_line(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(b"video,mos\nok.mp4,1\ncaf\xe9.mp4,2\n")
    with pytest.raises(MosTableError, match="line 3: not UTF-8 text"):
        read_table("csv", path)


OUT_OF_RANGE = {
    "konvid-1k": (
        "KoNViD_1k_mos.csv",
        "flickr_id,mos\n1,5.01\n",
        r"line 2: the MOS is 5\.01; KoNViD-1k's lie on 1 … 5",
    ),
    "lsvq": ("labels_test_1080p.csv", "name,mos\na,-1\n", r"line 2: the MOS is -1; LSVQ's lie on 0 … 100"),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_an_opinion_out_of_the_data_sets_range_is_refused(tmp_path, name):
    file, text, sentence = OUT_OF_RANGE[name]
    write(tmp_path / file, text)
    with pytest.raises(MosTableError, match=sentence):
        read_table(name, tmp_path, require_videos=False)


def test_lsvqs_flag_must_be_one(tmp_path):
    write(tmp_path / "labels_train_test.csv", "name,mos,is_test\na,50,maybe\n")
    with pytest.raises(MosTableError, match=r"line 2: is_test is 'maybe'; expected True or False"):
        read_table("lsvq", tmp_path, require_videos=False)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_without_the_table_says_what_was_looked_for(tmp_path, name):
    with pytest.raises(
        MosTableError, match=r"has no (\S*KoNViD_1k_mos|data\.mat|MOS_for|labels_train|train_data|info\.txt)"
    ):
        read_table(name, tmp_path)
    with pytest.raises(MosTableError, match="absent is not a folder"):
        read_table(name, tmp_path / "absent")


BAD_MAT = {
    "not MATLAB": (lambda path: path.write_text("Dear diary" * 50), "is not a MATLAB file of version 7 or earlier"),
    "no mos": (lambda path: scipy.io.savemat(path, {"video_list": np.array(["a"], object)}), "has no variable mos$"),
    "shapes": (
        lambda path: scipy.io.savemat(path, {"video_list": np.array(["a", "b"], object), "mos": [1.0, 2.0, 3.0]}),
        r"their shapes are: video_list \(2,\), mos \(3,\)$",
    ),
    "no number": (
        lambda path: scipy.io.savemat(path, {"video_list": np.array(["a", "b"], object), "mos": [1.0, np.nan]}),
        r"data\.mat, row 2 of video_list: the MOS is 'nan'",
    ),
}


@pytest.mark.parametrize("name", BAD_MAT)
def test_a_malformed_matlab_file_is_refused(tmp_path, name):
    write_file, sentence = BAD_MAT[name]
    write_file(tmp_path / "data.mat")
    with pytest.raises(MosTableError, match=sentence):
        read_table("live-vqc", tmp_path)


def test_live_vqc_with_one_video_is_read(tmp_path):
    scipy.io.savemat(tmp_path / "data.mat", {"video_list": np.array([["A001.mp4"]], object), "mos": [[50.0]]})
    (row,) = read_table("live-vqc", tmp_path, require_videos=False).rows
    assert (row.name, row.mos) == ("A001.mp4", 50.0)


def test_a_malformed_workbook_is_refused_with_its_row(tmp_path):
    path = tmp_path / "MOS_for_YouTube_UGC_dataset.xlsx"
    path.write_text("vid,MOS full\n")
    with pytest.raises(MosTableError, match=r"is not an \.xlsx workbook"):
        read_table("youtube-ugc", tmp_path)
    book = openpyxl.Workbook()
    book.save(path)
    with pytest.raises(MosTableError, match="has no sheet 'MOS'; it has: Sheet"):
        read_table("youtube-ugc", tmp_path)
    book.active.title = "MOS"
    book.active.append(["vid", "MOS full"])
    book.active.append([])
    book.active.append(["Gaming_720P-25aa", "n/a"])
    book.save(path)
    with pytest.raises(MosTableError, match=r"row 3 of sheet MOS: the MOS is 'n/a'; expected a number"):
        read_table("youtube-ugc", tmp_path)
    book.active["B1"] = "MOS"
    book.save(path)
    with pytest.raises(MosTableError, match=r"row 1 of sheet MOS: expected one column 'mos full'"):
        read_table("youtube-ugc", tmp_path)


def test_a_file_that_cannot_be_read_and_a_name_that_is_none_are_refused(tmp_path):
    with pytest.raises(MosTableError, match=r"absent\.csv cannot be read \(No such file"):
        read_table("csv", tmp_path / "absent.csv")
    with pytest.raises(ValueError, match=re.escape("data set is 'konvid'; expected one of konvid-1k, live-vqc")):
        read_table("konvid", tmp_path)
