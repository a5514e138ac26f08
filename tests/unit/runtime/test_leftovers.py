"""What killed runs leave: the next removes it, and nothing else."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from _support.pictures import files
from _support.waiting import started
from adadm.runtime.files import written_whole
from adadm.runtime.leftovers import temporary_file, temporary_folder

WORKING = """
import sys
from pathlib import Path
from adadm.runtime.files import written_whole
from adadm.runtime.leftovers import temporary_folder
with written_whole(sys.argv[1]) as file, temporary_folder(Path(sys.argv[1]).parent) as folder:
    file.write_text("half")
    (folder / "deep").mkdir()
    (folder / "deep" / "a").write_text("half")
    print("working", flush=True)
    sys.stdin.read()
"""
WRITING = """
import sys
from adadm.runtime.files import written_whole
with written_whole(sys.argv[1]) as file:
    file.write_text("whole")
"""


def write_elsewhere(path: Path) -> None:
    subprocess.run([sys.executable, "-c", WRITING, str(path)], check=True)
    assert path.read_text() == "whole"


def test_the_next_run_removes_what_a_killed_one_left_and_no_living_one_s(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKING]
    with (
        started([*command, str(tmp_path / "a.png")]) as killed,
        started([*command, str(tmp_path / "b.png")]) as living,
    ):
        for process in (killed, living):
            assert process.stdout is not None and process.stdout.readline() == "working\n"
        killed.kill()
        killed.wait()
        assert len(list(tmp_path.glob(".adadm-*"))) == 4
        write_elsewhere(tmp_path / "c.png")
        assert len(list(tmp_path.glob(".adadm-*"))) == 2
        living.communicate("", timeout=60)
    assert files(tmp_path) == ["b.png", "c.png"]
    assert (tmp_path / "b.png").read_text() == "half"


OTHERS: dict[str, Callable[[Path], object]] = {
    ".adadm-notes": Path.touch,
    ".adadm-ABCDEFGH": Path.touch,
    ".adadm-abcdefgh-mine": Path.touch,
    "adadm-abcdefgh": Path.touch,
    ".a.abcdefgh.png": Path.touch,
    ".adadm-abcdefgh": lambda path: path.symlink_to("outside"),
    ".adadm-abcdefgi.png": os.mkfifo,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_others_named_stays(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a").touch()
    OTHERS[name](tmp_path / name)
    write_elsewhere(tmp_path / "c.png")
    assert sorted(os.listdir(tmp_path)) == sorted([name, "c.png", "outside"])
    assert os.listdir(tmp_path / "outside") == ["a"]


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each looks for leftovers while the others make their files."""
    command = [sys.executable, "-c", WRITING]
    processes = [subprocess.Popen([*command, str(tmp_path / f"{i}.txt")]) for i in range(12)]
    assert [process.wait() for process in processes] == [0] * 12
    assert len(files(tmp_path)) == 12


def test_what_is_taken_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock
    taken: list[Path] = []

    def take_first(descriptor: int, how: int) -> None:
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()
        lock(descriptor, how)

    monkeypatch.setattr("fcntl.flock", take_first)
    with temporary_file(tmp_path, ".png") as path:
        assert path.exists() and path != taken[0]


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / ".adadm-abcdefgh"
    left.touch()

    def refuse(descriptor: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with written_whole(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    with temporary_folder(tmp_path) as folder:
        assert folder.is_dir()
    assert sorted(os.listdir(tmp_path)) == [left.name, "a.txt"]


def test_a_name_as_long_as_the_system_takes(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".txt")
    with written_whole(path) as partial:
        partial.write_text("whole")
    assert path.read_text() == "whole"
