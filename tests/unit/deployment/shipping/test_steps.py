from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from adadm.deployment.shipping.steps import Steps
from adadm.runtime.files import sha256_of
from adadm.runtime.records import write_record


def edit(folder: Path, outputs: Mapping[str, str], **fields: Any) -> None:
    """Let the record have more of its one step."""
    record = json.loads((folder / "steps.json").read_text())["content"]
    step = record["steps"]["make"]
    step["outputs"].update(outputs)
    step.update(fields)
    write_record(folder / "steps.json", record)


class Making:
    """A step that writes one file, and one in a folder, and counts how often."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.times = folder, 0
        folder.mkdir(exist_ok=True)

    def __call__(self) -> None:
        self.times += 1
        (self.folder / "out" / "deep").mkdir(parents=True, exist_ok=True)
        (self.folder / "model.bin").write_text(f"model {self.times}")
        (self.folder / "out" / "deep" / "part.bin").write_text("part")


@pytest.fixture
def making(tmp_path: Path) -> Making:
    return Making(tmp_path)


def run(making: Making, made_from: str = "a") -> int:
    """Returns how often it was made by now."""
    steps = Steps(making.folder / "steps.json")
    outputs = [making.folder / "model.bin", making.folder / "out"]
    steps.run("make", {"from": made_from}, outputs, making)
    return making.times


def test_it_is_done_once(making: Making) -> None:
    assert [run(making), run(making)] == [1, 1]


def test_it_is_done_again_once_it_is_forgotten(making: Making) -> None:
    run(making)
    steps = Steps(making.folder / "steps.json")
    steps.forget("make")
    steps.forget("never made")
    steps.run("make", {"from": "a"}, [making.folder / "model.bin", making.folder / "out"], making)
    assert making.times == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.bin", "another"),
        ("out/more.bin", "more"),
        ("out/deep/part.bin", None),
        ("steps.json", "["),
    ],
)
def test_it_is_done_again_where_its_files_are_not_as_they_were(
    making: Making, name: str, content: str | None
) -> None:
    run(making)
    (making.folder / name).unlink(missing_ok=True)
    if content is not None:
        (making.folder / name).write_text(content)
    assert run(making) == 2
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
    assert run(making) == 1


@pytest.mark.parametrize(
    "name",
    ["../victim.txt", "{folder}/victim.txt", "out/../../victim.txt", "link/victim.txt"],
)
@pytest.mark.parametrize("is_digest_known", [True, False])
def test_a_record_removes_nothing_outside_its_folder(
    tmp_path: Path, name: str, is_digest_known: bool
) -> None:
    making, victim = Making(tmp_path / "shipped"), tmp_path / "victim.txt"
    victim.write_text("somebody's")
    (making.folder / "link").symlink_to(tmp_path)
    run(making)
    digest = sha256_of(victim) if is_digest_known else "0"
    edit(making.folder, {name.format(folder=tmp_path): digest})
    assert run(making, "b") == 2
    assert victim.read_text() == "somebody's"


def test_a_record_removes_no_source_and_no_file_that_no_step_made(making: Making) -> None:
    source, notes = making.folder / "net.safetensors", making.folder / "notes.txt"
    source.write_text("weights")
    notes.write_text("mine")
    run(making)
    edit(making.folder, {source.name: sha256_of(source), notes.name: "0"})
    steps = Steps(making.folder / "steps.json", [source])
    steps.run("make", {"from": "b"}, [making.folder / "model.bin"], making)
    assert (source.read_text(), notes.read_text()) == ("weights", "mine")


def test_a_name_that_goes_up_is_no_output_of_the_step(making: Making) -> None:
    (making.folder / "mine.txt").write_text("mine")
    run(making)
    edit(making.folder, {"out/../mine.txt": "0"})
    assert run(making) == 2
    assert (making.folder / "mine.txt").read_text() == "mine"


def test_outputs_may_lie_behind_a_link(tmp_path: Path) -> None:
    """Models on another disk: the step is remembered, and what it made there is written over."""
    making = Making(tmp_path / "shipped")
    (tmp_path / "disk").mkdir()
    (making.folder / "out").symlink_to(tmp_path / "disk")
    assert [run(making), run(making), run(making, "b")] == [1, 1, 2]
    assert (tmp_path / "disk" / "deep" / "part.bin").read_text() == "part"


@pytest.mark.parametrize("step", [None, {"made_from": {}, "outputs": {"": "0"}}])
def test_a_record_of_another_form_is_begun_anew(making: Making, step: object) -> None:
    run(making)
    record = {"format": 1, "steps": {"make": step}}
    write_record(making.folder / "steps.json", record)
    assert run(making) == 2


def test_a_record_that_was_changed_is_begun_anew(making: Making) -> None:
    """Else a file of the user's, listed with its digest, would be removed."""
    run(making)
    (making.folder / "mine.txt").write_text("mine")
    path = making.folder / "steps.json"
    record = json.loads(path.read_text())
    mine = {"mine.txt": sha256_of(making.folder / "mine.txt")}
    record["content"]["steps"]["make"]["outputs"].update(mine)
    path.write_text(json.dumps(record))
    assert run(making) == 2
    assert (making.folder / "mine.txt").read_text() == "mine"
