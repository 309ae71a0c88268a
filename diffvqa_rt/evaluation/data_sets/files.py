"""Readers of the files that data sets come in; every complaint names the file and the place in it."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from diffvqa_rt.errors import MosTableError
from diffvqa_rt.evaluation.mos_table import SourceRow, read_text, require_columns
from diffvqa_rt.extras import needs_package


def find_file(folder: Path, names: Sequence[str]) -> Path:
    """The first of these files that the folder has. Raises MosTableError naming what was looked for."""
    if not folder.is_dir():
        raise MosTableError(f"{folder} is not a folder")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise MosTableError(f"{folder} has no {' or '.join(names)}")


class CaseBlindFolder:
    """A folder whose files are found whatever the case of their names, as on the systems that data sets come from."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._entries: dict[Path, dict[str, str]] = {}

    def file(self, *names: str) -> Path:
        """The first of these relative paths that is there, as the folder spells it; else the first as it is given."""
        found = (self._find(name) for name in names)
        return next((path for path in found if path is not None), self._root / names[0])

    def _find(self, name: str) -> Path | None:
        if (exact := self._root / name).is_file():
            return exact
        path = self._root
        for part in Path(name).parts:
            if (entry := self._list(path).get(part.lower())) is None:
                return None
            path /= entry
        return path if path.is_file() else None

    def _list(self, folder: Path) -> dict[str, str]:
        """The names in a folder by their lower case, from one look at it."""
        if folder not in self._entries:
            self._entries[folder] = (
                {entry.name.lower(): entry.name for entry in folder.iterdir()} if folder.is_dir() else {}
            )
        return self._entries[folder]


def parse_flag(row: SourceRow, column: str) -> bool:
    """The flag that a cell holds. Raises MosTableError where it is neither True nor False."""
    text = row.cells[column].lower()
    if text not in ("true", "false", "1", "0"):
        raise MosTableError(f"{row.where}: {column} is {row.cells[column]!r}; expected True or False")
    return text in ("true", "1")


def read_words(path: Path, columns: Sequence[str], separator: str | None = None) -> Iterator[SourceRow]:
    """The records of a text file without a header, whose words on each line are these columns; blank lines are skipped.

    Args:
        separator: of the words; None for any white space.

    Raises:
        MosTableError: the file cannot be read, or a line has more or fewer words.
    """
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = [word.strip() for word in line.split(separator)] if line.strip() else []
        where = f"{path}, line {number}"
        if words and len(words) != len(columns):
            raise MosTableError(f"{where}: {len(words)} words; expected {len(columns)} ({', '.join(columns)})")
        if words:
            yield SourceRow(where, dict(zip(columns, words, strict=True)))


def read_matlab(path: Path, names: Sequence[str]) -> list[NDArray]:
    """Variables of a MATLAB file as arrays [n] of one length, of numbers or of texts.

    Raises:
        MosTableError: the file is no such file, or lacks a variable, or one is of another shape.
    """
    # Here, since the command's help reads the readers' tables where SciPy is not installed.
    try:
        import scipy.io
    except ModuleNotFoundError as error:
        raise MosTableError(needs_package(str(path), "SciPy", "train")) from error
    try:
        contents = scipy.io.loadmat(path, variable_names=names, squeeze_me=True)
    # What SciPy was seen to raise of damaged, truncated and HDF5 files; it documents none.
    except (OSError, ValueError, TypeError, NotImplementedError, KeyError, IndexError) as error:
        raise MosTableError(f"{path} is not a MATLAB file of version 7 or earlier ({error})") from error
    if missing := [name for name in names if name not in contents]:
        raise MosTableError(f"{path} has no variable {' and no '.join(missing)}")
    arrays = [np.atleast_1d(contents[name]) for name in names]
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(names, arrays, strict=True))
        raise MosTableError(f"{path}: expected variables of one length in one dimension; their shapes are: {shapes}")
    return arrays


def read_sheet(path: Path, sheet: str | None, columns: Sequence[str]) -> Iterator[SourceRow]:
    """The records of one sheet of an .xlsx file, as `read_csv` gives a CSV file's; the first row is the header.

    Args:
        sheet: its name; None for the file's first.

    Raises:
        MosTableError: the file is no such workbook, or lacks the sheet or a column.
    """
    try:
        import openpyxl  # here for the reason that SciPy is in `read_matlab`
    except ModuleNotFoundError as error:
        raise MosTableError(needs_package(f"{path}, unless it is saved as CSV,", "openpyxl", "train")) from error
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise MosTableError(f"{path} is not an .xlsx workbook ({error})") from error
    try:
        sheet = sheet or book.sheetnames[0]
        if sheet not in book.sheetnames:
            raise MosTableError(f"{path} has no sheet {sheet!r}; it has: {', '.join(book.sheetnames)}")
        rows = book[sheet].iter_rows(values_only=True)
        header = [_cell_text(cell).lower() for cell in next(rows, ())]
        require_columns(f"{path}, row 1 of sheet {sheet}", header, columns)
        for number, cells in enumerate(rows, 2):
            texts = [_cell_text(cell) for cell in cells]
            if any(texts):
                # A sheet's rows end with their last filled cell.
                texts += [""] * (len(header) - len(texts))
                yield SourceRow(f"{path}, row {number} of sheet {sheet}", dict(zip(header, texts, strict=False)))
    finally:
        book.close()


def _cell_text(cell: object) -> str:
    return "" if cell is None else re.sub(r"\s+", " ", str(cell)).strip()
