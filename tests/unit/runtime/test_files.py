from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from adadm.runtime.files import naming, read_cache, sha256_of, write_cache, written_whole


def test_a_file_appears_with_its_content_and_ordinary_rights(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "a.txt"
    with written_whole(target) as partial:
        assert partial.suffix == ".txt"
        partial.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert target.stat().st_mode & 0o600 == 0o600
    (tmp_path / "plain").write_text("")
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half() -> None:
        with written_whole(target) as partial:
            partial.write_text("ha")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"/proc/a\.txt'$"),
        written_whole("/proc/a.txt"),
    ):
        pass


def test_digest_is_that_of_hashlib(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000
    (tmp_path / "large").write_bytes(content)
    assert sha256_of(tmp_path / "large") == hashlib.sha256(content).hexdigest()


def test_a_cache_that_is_unusable_is_said_and_no_failure(tmp_path: Path) -> None:
    said: list[str] = []
    cache, below = tmp_path / "cache", tmp_path / "cache" / "below"
    assert read_cache(cache, "timing", said.append) == b""
    write_cache(cache, b"times", "timing", said.append)
    assert read_cache(cache, "timing", said.append) == b"times" and said == []
    write_cache(below, b"times", "timing", said.append)
    assert read_cache(tmp_path, "runtime", said.append) == b""
    assert said[0].startswith(f"the timing cache is not kept: {cache}: ")
    assert said[1].startswith(f"the runtime cache is not read: {tmp_path}: ")
    assert cache.read_bytes() == b"times"


def test_errors_of_temporary_files_name_what_they_are_for(tmp_path: Path) -> None:
    result, partial = tmp_path / "made", tmp_path / ".adadm-abcdefgh"
    for found, expected in (
        (None, result),
        (partial, result),
        (str(partial / "reference" / "a.npz"), result),
        (os.fsencode(partial), result),
        (tmp_path / "other", tmp_path / "other"),
    ):
        with pytest.raises(OSError, match="full") as caught, naming(result, partial):
            raise OSError(errno.ENOSPC, "full", found)
        assert Path(caught.value.filename) == expected
