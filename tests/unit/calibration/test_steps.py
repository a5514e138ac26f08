from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adadm.calibration.shipping.steps import Steps


class Making:
    """A step that writes one file, and one in a folder, and counts how often."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.times = folder, 0

    def __call__(self) -> dict[str, int]:
        self.times += 1
        (self.folder / "out" / "deep").mkdir(parents=True, exist_ok=True)
        (self.folder / "model.bin").write_text(f"model {self.times}")
        (self.folder / "out" / "deep" / "part.bin").write_text("part")
        return {"times": self.times}


@pytest.fixture
def making(tmp_path: Path) -> Making:
    return Making(tmp_path)


def run(making: Making, made_from: str = "a") -> dict[str, int]:
    steps = Steps(making.folder / "steps.json")
    outputs = [making.folder / "model.bin", making.folder / "out"]
    found: dict[str, int] = steps.run("make", {"from": made_from}, outputs, making)
    return found


def test_it_is_done_once_and_its_result_is_remembered(making: Making) -> None:
    assert [run(making), run(making)] == [{"times": 1}, {"times": 1}]


def change(folder: Path) -> None:
    (folder / "model.bin").write_text("another")


def add(folder: Path) -> None:
    (folder / "out" / "more.bin").write_text("more")


def remove(folder: Path) -> None:
    (folder / "out" / "deep" / "part.bin").unlink()


def forget(folder: Path) -> None:
    (folder / "steps.json").write_text("[")


@pytest.mark.parametrize("damage", [change, add, remove, forget])
def test_it_is_done_again_where_its_files_are_not_as_they_were(
    making: Making, damage: Callable[[Path], None]
) -> None:
    run(making)
    damage(making.folder)
    assert run(making) == {"times": 2}
    assert (making.folder / "out" / "deep" / "part.bin").read_text() == "part"


def test_what_it_was_made_from_before_is_removed_and_nothing_else(making: Making) -> None:
    run(making)
    (making.folder / "out" / "users.txt").write_text("mine")
    (making.folder / "other.bin").write_text("another step's")
    Steps(making.folder / "steps.json").run("make", {"from": "b"}, [], lambda: None)
    left = {str(p.relative_to(making.folder)) for p in making.folder.rglob("*") if p.is_file()}
    assert left == {"steps.json", "other.bin", "out/users.txt"}
    assert not (making.folder / "out" / "deep").exists()


def test_a_step_that_fails_is_not_remembered(making: Making) -> None:
    def failing() -> None:
        raise KeyboardInterrupt

    steps = Steps(making.folder / "steps.json")
    with pytest.raises(KeyboardInterrupt):
        steps.run("make", {"from": "a"}, [], failing)
    assert run(making) == {"times": 1}
