"""The harness itself: what it must see, it sees."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest

from _support import reader_with_faults
from _support.reader_with_faults import RIGHT, WRONG
from fuzz import campaign
from fuzz.guided import pack, unpack
from fuzz.mutations import mutate_json, mutate_protobuf, mutate_zip
from fuzz.reader import Case, make_case
from fuzz.reduce import reduce

CASES = 40
READER = reader_with_faults.READER


def kind_of(index: int) -> str:
    return make_case(READER, READER.seeds(), 3, index).files["what"].decode()


def test_every_kind_of_fault_is_seen_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "SECONDS_A_CASE", 2.0)
    *_, outcome = campaign.run(
        "_support.reader_with_faults", seed=3, seconds=600, most=CASES, workers=2
    )
    kinds = [kind_of(index) for index in range(CASES)]
    assert set(kinds) == {*RIGHT, *WRONG}, "another seed would have them all"
    assert outcome.count == CASES
    assert outcome.accepted == kinds.count("accepted")
    assert outcome.refused == {"AdadmError": kinds.count("refused")}
    assert {index for index, _ in outcome.faults} == {
        index for index, kind in enumerate(kinds) if kind in WRONG
    }
    for index, cause in outcome.faults:
        assert kinds[index] in cause


def test_a_reader_that_accepts_no_seed_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="cannot be started"):
        list(campaign.run("_support.scripts", seed=0, seconds=60))


def test_a_case_is_reduced_to_what_makes_it_fail() -> None:
    case = Case({"a.json": b'{"x": [1, 2, {"y": 3}], "z": 4}', "b": b"0123456789"}, {})

    def fails(case: Case) -> bool:
        return b'"y"' in case.files.get("a.json", b"")

    assert reduce(case, fails, seconds=60).files == {"a.json": b'"y"'}


def test_a_case_survives_the_guided_run() -> None:
    case = Case({"a/b.json": b"{}", "c": b"\0\xff"}, {"a/b.json": b"[]"})
    assert unpack(pack(case)) == case


def test_mutations_follow_from_the_seed(tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("a"), b"content")
        file.writestr(zipfile.ZipInfo("b"), b"more")
    message = b"\x08\x07\x12\x05hello\x1a\x04\x08\x01\x10\x02"
    for mutate, data in (
        (mutate_json, b'{"a": [1, {"b": null}], "c": "text"}'),
        (mutate_protobuf, message),
        (mutate_zip, archive.read_bytes()),
    ):
        changed = [mutate(data, random.Random(seed)) for seed in range(100)]
        assert changed == [mutate(data, random.Random(seed)) for seed in range(100)]
        assert len({*changed} - {data}) > 60
