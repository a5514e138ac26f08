from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pytest

from adadm.runtime.bounds import within
from adadm.runtime.errors import CalibrationError, EngineError
from adadm.runtime.json_format import Figure, as_json, key, read, rounded, text, write


@dataclass(frozen=True)
class Range:
    least: tuple[int, ...]
    size: tuple[int, int] = (1, 1)


@dataclass(frozen=True, kw_only=True)
class Everything:
    format: Literal[1] = 1
    name: str
    count: int
    share: float
    passed: bool
    variant: Literal["whole", "tile"] = key("form")
    parity_db: Figure
    lost_db: Figure | None
    note: str | None
    ranges: Mapping[str, tuple[Range, ...]]
    rows: list[dict[str, float]] = field(default_factory=list)
    flags: dict[str, Any] = field(default_factory=dict)


CONTENT: dict[str, Any] = {
    "format": 1,
    "name": "größe",
    "count": 2**63 - 1,
    "share": 3,
    "passed": True,
    "form": "tile",
    "parity_db": None,
    "lost_db": None,
    "note": None,
    "ranges": {"a b": [{"least": [1, 2], "size": [3, 4]}]},
    "rows": [{"x": -1.5e-7}],
    "flags": {"deep": [[{"er": [None, True, "ö"]}]]},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "m.json"


def read_again(file: Path, content: object) -> Everything:
    file.write_text(json.dumps(content))
    return read(Everything, file, error=EngineError, advice="make it again")


def test_what_was_written_comes_back_and_is_written_so_again(file: Path) -> None:
    found = read_again(file, CONTENT)
    assert found.ranges == {"a b": (Range((1, 2), (3, 4)),)}
    assert (found.variant, found.parity_db, found.lost_db) == ("tile", math.inf, None)
    assert type(found.share) is int  # as it stands there, so that a digest stays the same
    assert as_json(found) == CONTENT
    write(file, found)
    assert file.read_text() == json.dumps(CONTENT, indent=2) + "\n" == text(CONTENT)
    assert read(Everything, file, error=EngineError) == found


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_byte_order_mark_and_other_ends_of_lines_are_read(file: Path, mark: str) -> None:
    file.write_bytes((mark + text(CONTENT)).replace("\n", "\r\n").encode())
    assert as_json(read(Everything, file, error=EngineError)) == CONTENT


def test_what_has_a_default_may_be_missing(file: Path) -> None:
    short = {name: value for name, value in CONTENT.items() if name not in ("rows", "flags")}
    assert read_again(file, short).rows == []
    for name in short:
        rest = {other: value for other, value in short.items() if other != name}
        with pytest.raises(EngineError, match=rf"m\.json: expected {name}, .*, got none;"):
            read_again(file, rest)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 2}, "format: expected 1, got 2; make it again"),
        ({"format": True}, "format: expected 1, got True"),
        ({"format": 1.0}, "format: expected 1, got 1.0"),
        ({"name": 1}, "name: expected a text, got 1"),
        ({"name": None}, "name: expected a text, got None"),
        ({"count": True}, "count: expected an integer, got True"),
        ({"count": 1.0}, "count: expected an integer, got 1.0"),
        ({"share": "1"}, "share: expected a number, got '1'"),
        ({"share": None}, "share: expected a number, got None"),
        ({"share": False}, "share: expected a number, got False"),
        ({"passed": 1}, "passed: expected true or false, got 1"),
        ({"form": "moments"}, "form: expected 'whole' or 'tile', got 'moments'"),
        ({"form": ["tile"]}, r"form: expected 'whole' or 'tile', got \['tile'\]"),
        ({"variant": "tile"}, "expected nothing but format, name, .*, got {'variant': 'tile'}"),
        ({"parity_db": []}, r"parity_db: expected a number, got \[\]"),
        ({"lost_db": "x"}, "lost_db: expected a number, got 'x'"),
        ({"note": {}}, "note: expected a text, got {}"),
        ({"ranges": []}, r"ranges: expected an object, got \[\]"),
        ({"ranges": {"a": {}}}, r"ranges\.a: expected a list of entries, got {}"),
        ({"ranges": {"a": [1]}}, r"ranges\.a\.0: expected an object, got 1"),
        (
            {"ranges": {"a\n": [{}]}},
            r"ranges\.'a\\n'\.0: expected least, a list of integers, got none",
        ),
        ({"ranges": {"a": [{"least": [1, "2"]}]}}, r"ranges\.a\.0\.least\.1: expected an integer"),
        (
            {"ranges": {"a": [{"least": [], "size": [1]}]}},
            r"ranges.a.0.size: expected a list of 2 integers, got \[1\]",
        ),
        ({"rows": {}}, "rows: expected a list of entries, got {}"),
        ({"x" * 999: 1}, r"expected nothing but .*, got {'xxx.*\.\.\..*': 1}"),
        ({"ranges": {"x" * 999: 1}}, r"ranges\.'xxx.*\.\.\.x*': expected a list of entries"),
    ],
)
def test_what_is_not_as_annotated_is_named_with_its_place(
    file: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(
        EngineError, match=f"^{file}: {message}".replace("m.json", r"m\.json")
    ) as at:
        read_again(file, {**CONTENT, **fields})
    assert "\n" not in str(at.value) and len(str(at.value)) < 400


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"{} {}", "Extra data"),
        (b"\x89PNG", "invalid start byte"),
        (b'{"a": "\xff"}', "invalid start byte"),
        ('{"a": 1}'.encode("utf-16"), "invalid start byte"),
        (b"\xef\xbb\xbf" * 2 + b"{}", "Unexpected UTF-8 BOM"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b'{"\\udfff": 1}', "surrogates not allowed"),
        (b'{"a": NaN}', "expected a finite number, got NaN"),
        (b"[-Infinity]", "expected a finite number, got -Infinity"),
        (b"[1e999]", "expected a finite number, got 1e999"),
        (b"9" * 20, "expected integers of at most 19 digits, got 20"),
        (b"[-" + b"9" * 99_999 + b"]", "got 100000"),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', "the name 'b' occurs twice"),
        (b"[" * 100_000, "at most 64 levels of nesting"),
        (b'{"a":' * 100_000, "at most 64 levels of nesting"),
        (b"[" * 64 + b"]" * 64 + b"," * 64, "Extra data"),
        (b"[" * 65 + b"]" * 65, "at most 64 levels of nesting"),
        (b"[" * 900 + b"]" * 900, "at most 64 levels of nesting"),
        (b'{"a":' * 64 + b"1" + b"}" * 64, "at most 64 levels of nesting"),
    ],
    ids=lambda value: str(value[:12]),
)
def test_hostile_bytes_are_an_error_of_ours(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)
    for hint in (Everything, dict[str, Any]):
        with pytest.raises(CalibrationError, match=rf"m\.json: cannot be read as JSON: .*{reason}"):
            read(hint, file, error=CalibrationError)


@pytest.mark.parametrize("content", ["[]", "null", "1", '"text"', "true"])
def test_what_is_no_object_is_refused(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(EngineError, match=r"m\.json: expected an object, got "):
        read(Everything, file, error=EngineError)


def test_what_cannot_be_opened_is_an_error_of_ours(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(EngineError, match=f"{path.name}: cannot be read: {reason}"):
            read(Everything, path, error=EngineError)


def test_a_file_of_any_size_takes_no_more_memory(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adadm.runtime.json_format._MOST_BYTES", 10)
    file.write_text("[1, 2, 3, 4]")
    with pytest.raises(EngineError, match="expected at most 10 bytes, got more"):
        read(list[int], file, error=EngineError)


def test_a_list_is_read_too(file: Path) -> None:
    write(file, [Range((1,)), Range(())])
    assert read(tuple[Range, ...], file, error=EngineError) == (Range((1,)), Range(()))
    assert read(list[Range], file, error=EngineError) == [Range((1,)), Range(())]


def test_what_is_not_finite_is_null_and_six_digits_are_kept() -> None:
    content = {"a": (math.inf, -math.inf, math.nan), "b": [1 / 3, 7, True, None, "x"]}
    assert as_json(content) == {"a": [None] * 3, "b": [1 / 3, 7, True, None, "x"]}
    assert rounded(content) == {"a": [None] * 3, "b": [0.333333, 7, True, None, "x"]}
    assert rounded(1234567.0) == 1234570.0


def test_a_file_that_cannot_be_written_leaves_the_old_one(file: Path) -> None:
    write(file, {"a": 1})
    with pytest.raises(TypeError):
        write(file, {"a": object()})
    assert [path.name for path in file.parent.iterdir()] == ["m.json"]
    assert json.loads(file.read_text()) == {"a": 1}


class Named(TypedDict):
    name: str


class Note(Named, total=False):
    share: Annotated[float, within(0, 1)] | None


def test_a_typed_dictionary_stays_one_as_it_is(file: Path) -> None:
    for note in ({"name": "a"}, {"share": 1, "name": "a"}, {"name": "a", "share": None}):
        file.write_text(json.dumps(note))
        assert json.dumps(read(Note, file, error=EngineError)) == file.read_text()


@pytest.mark.parametrize(
    ("note", "problem"),
    [
        ({}, "expected name, a text, got none"),
        ({"name": 1}, "name: expected a text, got 1"),
        ({"name": "a", "share": 1.5}, "share: expected a number from 0 to 1, got 1.5"),
        ({"name": "a", "share": -1}, "share: expected a number from 0 to 1, got -1"),
        ({"name": "a", "share": "1"}, "share: expected a number, got '1'"),
        ({"name": "a", "x": 1}, "expected nothing but name, share, got {'x': 1}"),
        ([], "expected an object, got []"),
    ],
)
def test_a_typed_dictionary_is_refused_where_it_differs(
    note: object, problem: str, file: Path
) -> None:
    file.write_text(json.dumps(note))
    with pytest.raises(EngineError) as refusal:
        read(Note, file, error=EngineError)
    assert str(refusal.value) == f"{file}: {problem}"
