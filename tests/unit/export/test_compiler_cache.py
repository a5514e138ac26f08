from __future__ import annotations

import os
from pathlib import Path

import pytest

from adadm.export.compiler_cache import keep_compiler_cache

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(_VARIABLE, raising=False)
    return tmp_path / "cache"


def test_the_compiler_keeps_its_files_beside_ours_and_none_are_made_yet(cache: Path) -> None:
    keep_compiler_cache()
    assert os.environ[_VARIABLE] == str(cache / "adadm" / "torch")
    assert not cache.exists()


def test_what_the_user_says_holds(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_VARIABLE, "/elsewhere")
    keep_compiler_cache()
    assert os.environ[_VARIABLE] == "/elsewhere"


def test_where_no_cache_can_be_made_pytorch_chooses(cache: Path) -> None:
    cache.write_text("a file in its place")
    keep_compiler_cache()
    assert _VARIABLE not in os.environ
