"""Every least case that a reader once failed at."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from fuzz.reader import REFUSALS, load_reader, read_files, reader_names, write_files

REGRESSIONS = Path(__file__).with_name("regressions")
CASES = sorted(REGRESSIONS.glob("*/*"))


@pytest.mark.filterwarnings("ignore")  # PyTorch's of prototypes
@pytest.mark.parametrize("folder", CASES, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_a_case_that_once_failed_is_read_or_refused(folder: Path, tmp_path: Path) -> None:
    reader = load_reader(folder.parent.name)
    files = read_files(folder)
    write_files(tmp_path, files)
    with suppress(*REFUSALS):
        reader.read(tmp_path, files)


def test_every_regression_has_a_reader() -> None:
    assert {folder.parent.name for folder in CASES} <= set(reader_names())
