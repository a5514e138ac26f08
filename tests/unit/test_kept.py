"""What tests keep: made once, whole, and of these sources alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from _support import kept as module
from _support.kept import kept


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(module, "_KEPT", tmp_path / "kept")
    module._made_of_these_sources.cache_clear()
    yield tmp_path
    module._made_of_these_sources.cache_clear()


def test_it_is_made_once_for_each_key() -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "a").write_text(str(len(made)))

    assert [(kept(make, key) / "a").read_text() for key in (1, 2, 1)] == ["1", "2", "1"]
    assert len(made) == 2


def test_what_fails_is_not_there_and_is_made_again(folder: Path) -> None:
    def fail(place: Path) -> None:
        (place / "a").write_text("half")
        raise OSError("full")

    for _ in range(2):
        with pytest.raises(OSError, match="full"):
            kept(fail)
    assert list(folder.rglob("a")) == []


def test_of_other_sources_it_is_made_anew_and_the_eldest_goes(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sources = tmp_path_factory.mktemp("sources")
    monkeypatch.setattr(module, "_SOURCES", (str(sources),))
    found = []
    for number in range(5):
        (sources / "a.py").write_text(f"{number}")
        module._made_of_these_sources.cache_clear()
        found.append(kept(lambda folder: None))
    assert len(set(found)) == 5
    assert [path.exists() for path in found] == [False, False, True, True, True]
