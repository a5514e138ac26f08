from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from adadm.runtime.json_format import Figure
from adadm.runtime.records import read_record, write_record


@dataclass(frozen=True)
class Content:
    loss_db: Figure
    names: dict[str, int]


CONTENT = Content(0.1, {"b": 1, "ä": 2})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_record(tmp_path / "losses.json", CONTENT)
    return tmp_path / "losses.json"


def refused(path: Path) -> str:
    said: list[str] = []
    assert read_record(Content, path, said.append) is None
    return " ".join(said)


@pytest.mark.parametrize("loss_db", [0.1, -1e-320, 1e22, 3, math.inf])
def test_a_record_holds_as_it_was_written(path: Path, loss_db: float) -> None:
    content = Content(loss_db, {})
    write_record(path, content)
    assert read_record(Content, path, pytest.fail) == content


def test_white_space_and_order_are_no_change(path: Path) -> None:
    record = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(record.items())), indent=3))
    assert read_record(Content, path, pytest.fail) == CONTENT


def test_a_record_that_is_not_there_is_none_in_silence(tmp_path: Path) -> None:
    assert read_record(Content, tmp_path / "losses.json", pytest.fail) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.1", "0.2"),
        ("0.1", "null"),
        ('"b": 1', '"b": 1.0'),
        ('"b": 1, ', ""),
        ('"b"', '"c"'),
    ],
)
def test_a_record_that_was_changed_is_refused_once(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert refused(path) == f"WARNING: begun anew: {path}: it is not as it was written"


def test_a_copy_under_another_name_is_refused(path: Path) -> None:
    assert "it is not as it was written" in refused(path.rename(path.with_name("others.json")))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"sha256": 1}', "[" * 2000, '{"sha256": "", "content": 1e400}']
)
def test_what_is_no_record_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    assert f"begun anew: {path}: " in refused(path)


def test_a_record_of_another_form_is_refused(path: Path) -> None:
    write_record(path, {"loss_db": 0.1})
    assert f"begun anew: {path}: expected names" in refused(path)
