"""Which slow tests are due in a run that takes a share of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from _support.slow import changed_files, imported, is_due

TESTS = [f"tests/cli/test_build.py::test_builds[{number}]" for number in range(40)]
NEVER = "0/1000000"


def test_each_part_is_due_in_its_turn_and_none_twice() -> None:
    due = [{test for test in TESTS if is_due(test, (), (), f"{day}/4")} for day in range(365, 369)]
    assert set.union(*due) == set(TESTS) and sum(map(len, due)) == len(TESTS)
    assert all(due)


def test_what_was_changed_is_always_due() -> None:
    read = imported(Path(__file__))
    for changed in ("tests/cli/test_build.py", "tests/_support/slow.py"):
        assert all(is_due(test, read, [changed], NEVER) for test in TESTS)
    for changed in ("README.md", "tests/cli/test_bundle.py", "tests/_support/kept.py"):
        assert not any(is_due(test, read, [changed], NEVER) for test in TESTS)


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("from adadm.export.passes.shift_trunk import (", "export/passes/shift_trunk.py"),
        ("    from adadm.runtime import verify", "runtime/verify.py"),
        ("from adadm.export.passes import ShiftTrunk", "export/passes/shift_trunk.py"),
    ],
)
def test_a_module_is_read_as_it_is_imported(line: str, changed: str, tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(f"import os\n{line}\n")
    assert is_due("test_it.py::test", imported(test), [changed], NEVER)
    assert not is_due("test_it.py::test", imported(test), ["export/graph/opset.py"], NEVER)


def test_the_last_commits_are_looked_at_and_no_more_than_there_are(tmp_path: Path) -> None:
    assert changed_files(tmp_path) == set()

    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    for number in range(12):
        (tmp_path / f"ä {number}.py").write_text("")
        git("add", ".")
        git("commit", "-m", "more")
        if number == 0:
            assert changed_files(tmp_path) == {"ä 0.py"}
    assert changed_files(tmp_path) == {f"ä {number}.py" for number in range(2, 12)}
