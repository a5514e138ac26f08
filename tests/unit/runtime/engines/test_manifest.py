from __future__ import annotations

import errno
import hashlib
import json
import re
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import Mock

import pytest

from _support.file_size_limit import files_at_most
from _support.waiting import finish, started, wait_until
from adadm.runtime.engines.manifest import (
    Manifest,
    check_runs_here,
    is_up_to_date,
    locked,
    manifest_path,
    read_engine,
    read_manifest,
    write_engine,
)
from adadm.runtime.engines.tensorrt_api import Profile
from adadm.runtime.errors import EngineError

PLAN = bytes(range(256)) * 8
PROFILES = (
    {"lr": Profile((1, 3, 64, 64), (1, 3, 256, 256), (1, 3, 256, 512)), "std": Profile((), (), ())},
    {"lr": Profile((1, 3, 64, 64), (1, 3, 64, 64), (1, 3, 64, 64))},
)
MANIFEST = Manifest(
    engine_sha256=hashlib.sha256(PLAN).hexdigest(),
    engine_bytes=len(PLAN),
    model="größe x2.onnx",
    model_sha256="1" * 64,
    calibration_sha256="2" * 64,
    target="jetson-orin-jp62",
    precision="int8",
    flavour="tensorrt",
    tensorrt="10.3.0",
    compute_capabilities=("SM87", "SM89"),
    profiles=PROFILES,
    flags={"workspace_bytes": 1 << 40, "tf32": False, "float32_layers": ["a", "é"], "x": 0.1},
    activation_bytes=(3, 4),
    metadata={"adadm.upscale": "2", "ä": "ö"},
    ledger={"stages": [{"name": "INT8", "psnr_y_db": 31.25}]},
)
FLIPPED = PLAN[:1000] + bytes([PLAN[1000] ^ 1]) + PLAN[1001:]
LEAST = replace(MANIFEST, calibration_sha256=None, profiles=(), activation_bytes=None, ledger=None)


def manifest_of(plan: bytes) -> Manifest:
    digest = hashlib.sha256(plan).hexdigest()
    return replace(MANIFEST, engine_sha256=digest, engine_bytes=len(plan))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """One that is written."""
    path = tmp_path / "ein Gerät" / "x2 (größer).engine"
    write_engine(path, PLAN, MANIFEST)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The manifest


def edit_manifest(engine: Path, **edit: Any) -> None:
    path = manifest_path(engine)
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))


def test_files_of_before_are_read_and_engines_stay_up_to_date(engine: Path) -> None:
    """Digests that format 1 had from the beginning."""
    content = json.loads(manifest_path(engine).read_text())
    assert content["sha256"] == "e31852689f64ed57b7dbaac633ae1cc77eed7c413e1cf851e453689f542a56e4"
    assert MANIFEST.key == "87ccc2f650dc212b0133e636662509158ab94c4e8cf1c9d2dc625088ee989ac0"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"target": "jetson-orin-jp60"}, " was edited or is damaged: expected sha256 .*, got .*"),
        ({"sha256": "0" * 64}, " was edited or is damaged: .*, got 000.*"),
        ({"format": 2}, ": format: expected 1, got 2"),
        (
            {"profiles": [{"lr": {"minimum": [1], "optimum": [1], "maximum": [1.5]}}]},
            r": profiles\.0\.lr\.maximum\.0: expected an integer, got 1\.5",
        ),
    ],
)
def test_a_manifest_that_no_build_wrote_is_refused(
    engine: Path, edit: dict[str, Any], message: str
) -> None:
    edit_manifest(engine, **edit)
    for reads in (read_manifest, read_engine):
        with pytest.raises(EngineError, match=rf"engine\.json{message}; build the engine again"):
            reads(engine)


IN_KEY: dict[str, Any] = {
    "model_sha256": "3" * 64,
    "calibration_sha256": None,
    "target": "tensorrt10",
    "precision": "fp16",
    "flavour": "rtx",
    "tensorrt": "10.3.1",
    "compute_capabilities": ("SM87",),
    "profiles": PROFILES[:1],
    "flags": {**MANIFEST.flags, "tf32": True},
}
NOT_IN_KEY: dict[str, Any] = {
    "engine_sha256": "0" * 64,
    "engine_bytes": 1,
    "model": "other.onnx",
    "activation_bytes": None,
    "metadata": {},
    "ledger": None,
}


def test_the_key_is_of_what_an_engine_is_made_from() -> None:
    names = {field.name for field in fields(Manifest)} - {"format", "sha256"}
    assert IN_KEY.keys() | NOT_IN_KEY.keys() == names
    changed = {replace(MANIFEST, **{name: value}).key for name, value in IN_KEY.items()}
    assert len(changed | {MANIFEST.key}) == len(IN_KEY) + 1
    larger = Profile((1, 3, 64, 64), (1, 3, 256, 256), (1, 3, 512, 512))
    assert replace(MANIFEST, profiles=({"lr": larger}, PROFILES[1])).key != MANIFEST.key
    assert replace(MANIFEST, profiles=PROFILES[::-1]).key != MANIFEST.key
    for name, value in NOT_IN_KEY.items():
        assert replace(MANIFEST, **{name: value}).key == MANIFEST.key


def test_neither_the_key_nor_the_file_depends_on_order(engine: Path, tmp_path: Path) -> None:
    reordered = replace(
        MANIFEST,
        flags=dict(reversed(MANIFEST.flags.items())) | {"float32_layers": ("a", "é")},
        profiles=tuple(dict(reversed(profile.items())) for profile in PROFILES),
    )
    assert reordered.key == MANIFEST.key == read_manifest(engine).key
    write_engine(tmp_path / "again.engine", PLAN, reordered)
    again = tmp_path / "again.engine.json"
    assert again.read_bytes() == manifest_path(engine).read_bytes()


# The two files


@pytest.mark.parametrize("manifest", [MANIFEST, LEAST], ids=["full", "least"])
def test_an_engine_comes_back(engine: Path, manifest: Manifest) -> None:
    write_engine(engine, PLAN, manifest)
    assert names(engine.parent) == ["x2 (größer).engine", "x2 (größer).engine.json"]
    assert read_manifest(engine) == manifest
    for trust in (False, True):
        assert read_engine(engine, trust=trust) == (PLAN, manifest)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    ("plan", "manifest", "message"),
    [
        (
            FLIPPED,
            MANIFEST,
            r"\.engine is damaged, or .*\.engine\.json belongs to a different engine: expected "
            rf"2048 bytes of sha256 {MANIFEST.engine_sha256}, got 2048 of "
            rf"{manifest_of(FLIPPED).engine_sha256}; build the engine again",
        ),
        (PLAN, manifest_of(b"other"), "belongs to a different engine: expected 5 bytes"),
        (b"", manifest_of(b""), r"\.engine is empty; build"),  # yet they agree
    ],
    ids=["one bit", "manifest of another", "empty"],
)
def test_two_files_that_are_not_of_one_build_are_refused(
    engine: Path, plan: bytes, manifest: Manifest, message: str, trust: bool
) -> None:
    write_engine(engine, plan, manifest)
    with pytest.raises(EngineError, match=message):
        read_engine(engine, trust=trust)


def test_an_engine_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match=r"/no\.engine cannot be read: No such file .*; build it with `adadm"
    ):
        read_engine(tmp_path / "no.engine", trust=True)
    with pytest.raises(EngineError, match="cannot be read: Is a directory"):
        read_engine(tmp_path)


def test_an_engine_without_a_manifest_needs_trust(engine: Path) -> None:
    manifest_path(engine).unlink()
    with pytest.raises(
        EngineError, match=r"(?s)has no manifest x2 .*\.engine\.json .*`adadm build`; .*--adopt"
    ):
        read_engine(engine)
    assert read_engine(engine, trust=True) == (PLAN, None)
    manifest_path(engine).write_bytes(b"{")  # which trust does not excuse
    with pytest.raises(EngineError, match="cannot be read as JSON"):
        read_engine(engine, trust=True)


def test_up_to_date_is_an_engine_that_is_whole_and_of_this_key(engine: Path) -> None:
    assert is_up_to_date(engine, MANIFEST.key) == MANIFEST
    assert is_up_to_date(engine, LEAST.key) is None
    assert is_up_to_date(engine.with_name("no.engine"), MANIFEST.key) is None
    text = manifest_path(engine).read_text()
    manifest_path(engine).write_text(text.replace("int8", "fp16"))
    assert is_up_to_date(engine, MANIFEST.key) is None
    manifest_path(engine).unlink()
    assert is_up_to_date(engine, MANIFEST.key) is None
    manifest_path(engine).write_text(text)
    assert is_up_to_date(engine, MANIFEST.key) == MANIFEST
    engine.write_bytes(PLAN[:-1])
    assert is_up_to_date(engine, MANIFEST.key) is None


@pytest.mark.parametrize("part", ["engine", "manifest"])
def test_a_folder_in_the_way_stops_both_files(tmp_path: Path, part: str) -> None:
    engine = tmp_path / "a.engine"
    in_the_way = engine if part == "engine" else manifest_path(engine)
    in_the_way.mkdir()
    with pytest.raises(IsADirectoryError, match=re.escape(repr(str(in_the_way)))):
        write_engine(engine, PLAN, MANIFEST)
    assert names(tmp_path) == [in_the_way.name]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        named = re.escape(repr(str(folder)))
        with pytest.raises(OSError, match=named):
            write_engine(folder / "a.engine", PLAN, MANIFEST)
        with pytest.raises(OSError, match=named), locked(folder / "a.engine"):
            pass
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("plan", "limit"), [(PLAN * 2, len(PLAN)), (b"small", 100)], ids=["plan", "manifest"]
)
def test_where_no_more_can_be_written_nothing_changes(
    tmp_path: Path, plan: bytes, limit: int
) -> None:
    engine = tmp_path / "a.engine"

    def refuses() -> None:
        with (
            files_at_most(limit),
            pytest.raises(OSError, match=re.escape(f"File too large: '{engine}")),
        ):
            write_engine(engine, plan, manifest_of(plan))

    refuses()
    assert names(tmp_path) == []
    write_engine(engine, PLAN, MANIFEST)
    refuses()
    assert names(tmp_path) == ["a.engine", "a.engine.json"]
    assert read_engine(engine) == (PLAN, MANIFEST)


def run(script: str, engine: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """A process of its own; with what this module has imported and defined."""
    start = f"""
import os, runpy, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
globals().update(runpy.run_path({__file__!r}))
engine = Path({str(engine)!r})
"""
    return started([sys.executable, "-c", start + script])


@pytest.mark.parametrize("old", [False, True])
def test_a_crash_between_the_two_files_leaves_nothing_that_passes(
    tmp_path: Path, old: bool
) -> None:
    engine = tmp_path / "a.engine"
    if old:
        write_engine(engine, PLAN, MANIFEST)
    script = """
renamed = 0
def crash_at_the_second(event, arguments):
    global renamed
    renamed += event == "os.rename"
    if renamed == 2:
        os._exit(9)
sys.addaudithook(crash_at_the_second)
write_engine(engine, b"new", replace(manifest_of(b"new"), target="tensorrt10"))
"""
    with run(script, engine) as process:
        code, _, err = finish(process)
    assert code == 9, err
    assert read_manifest(engine).target == "tensorrt10"  # it was between the two
    for trust in (False, True):
        with pytest.raises(EngineError, match="is damaged, or" if old else "cannot be read: No"):
            read_engine(engine, trust=trust)
    assert is_up_to_date(engine, MANIFEST.key) is None
    write_engine(engine, b"new", manifest_of(b"new"))
    assert read_engine(engine) == (b"new", manifest_of(b"new"))


# The lock

HOLD = """
progress = Mock(message=lambda text: print("waits", flush=True))
with locked(engine, progress=progress):
    print("holds", flush=True)
    sys.stdin.readline()
print("done", flush=True)
"""


def let_go(process: subprocess.Popen[str]) -> None:
    assert finish(process) == (0, "done\n", "")  # at the end of its stdin


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def wait_until_it_is_blocked(process: subprocess.Popen[str]) -> None:
    waits = re.compile(rf"-> FLOCK .* {process.pid} ")
    wait_until(lambda: waits.search(Path("/proc/locks").read_text()), process)


def test_the_second_of_two_builds_waits_for_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "made by the first"
    with run(HOLD, folder / "a.engine") as first:
        assert said(first) == "holds"
        with run(HOLD, folder / "b.engine") as second:
            assert said(second) == "waits"
            wait_until_it_is_blocked(second)
            let_go(first)
            assert said(second) == "holds"
            let_go(second)
    assert names(folder) == []


def test_a_wait_can_be_interrupted_and_leaves_the_lock_alone(tmp_path: Path) -> None:
    engine = tmp_path / "a.engine"
    with run(HOLD, engine) as holding:
        assert said(holding) == "holds"
        with run(HOLD, engine) as waiting:
            assert said(waiting) == "waits"
            wait_until_it_is_blocked(waiting)
            waiting.send_signal(signal.SIGINT)
            _, out, err = finish(waiting)
            assert not out and err.rstrip().endswith("KeyboardInterrupt")
        with run(HOLD, engine) as third:
            assert said(third) == "waits"  # still
            holding.kill()  # a process that is gone holds nothing
            assert said(third) == "holds"
            let_go(third)
    assert names(tmp_path) == []


def test_a_lock_ends_with_the_build_however_it_ends(tmp_path: Path) -> None:
    # Its error would be of waiting for itself, for ever.
    still_locked = Mock(message=Mock(side_effect=AssertionError("the folder is still locked")))

    def build(engine: Path, error: BaseException) -> None:
        with locked(engine, progress=still_locked):
            raise error

    for error in (EngineError("refused"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")):
        with pytest.raises(type(error)):
            build(tmp_path / "a.engine", error)
    with (
        locked(tmp_path / "a.engine", progress=still_locked),
        locked(tmp_path / "other folder" / "a.engine", progress=still_locked),
    ):
        write_engine(tmp_path / "a.engine", PLAN, MANIFEST)
    assert read_engine(tmp_path / "a.engine") == (PLAN, MANIFEST)


# The machine


@pytest.mark.parametrize("capability", ["SM87", "SM89"])
def test_an_engine_fits_the_machine_that_it_was_built_for(capability: str) -> None:
    check_runs_here(MANIFEST, "tensorrt", "10.3.0", capability)


@pytest.mark.parametrize(
    ("flavour", "version", "capability", "message"),
    [
        ("tensorrt", "10.3.1", "SM87", "requires TensorRT 10.3.0, got TensorRT 10.3.1: .*build"),
        ("rtx", "10.3.0", "SM87", "requires TensorRT 10.3.0, got TensorRT for RTX 10.3.0: "),
        ("tensorrt", "10.3.0", "SM86", "requires a GPU of SM87 or SM89, got SM86; build"),
        ("tensorrt", "10.3.0", "SM8", "requires a GPU of SM87 or SM89, got SM8; build"),
        ("tensorrt", "10.3.0", None, "requires a GPU of SM87 or SM89, got none; run"),
    ],
)
def test_an_engine_of_another_machine_is_refused(
    flavour: Literal["tensorrt", "rtx"], version: str, capability: str | None, message: str
) -> None:
    with pytest.raises(EngineError, match=f"the engine of größe x2.onnx .*{message}"):
        check_runs_here(MANIFEST, flavour, version, capability)
