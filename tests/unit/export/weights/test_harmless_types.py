"""What training scripts save beside the weights is read; what would run code never runs."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import fractions
import functools
import io
import os
import pathlib
import pickle
import pickletools
import subprocess
import sys
import time
import types
import uuid
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adadm.export.weights.harmless_types import read_pickle
from adadm.runtime.errors import CheckpointError

WEIGHT = torch.arange(6.0).reshape(2, 3)


def default_dict() -> dict[str, Any]:
    made: collections.defaultdict[str, Any] = collections.defaultdict(
        list, a=1, state_dict={"w": WEIGHT}
    )
    made["more"].append(2)
    return made


HARMLESS: dict[str, Any] = {
    "namespace": argparse.Namespace(scale=2, names=["a"], path=Path("x")),
    "simple namespace": types.SimpleNamespace(a=1),
    "ordered": collections.OrderedDict(a=1),
    "counter": collections.Counter("abc"),
    "deque": collections.deque([1, 2], maxlen=5),
    "path": Path("x/y"),
    "pure path": pathlib.PurePosixPath("x"),
    "windows path": pathlib.PureWindowsPath("c:/x"),
    "datetime": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
    "date and delta": [datetime.date(2024, 1, 2), datetime.timedelta(1), datetime.time(3)],
    "numpy numbers": [np.float32(1), np.float64(2), np.int64(3), np.bool_(True), np.uint8(4)],
    "numpy array": np.arange(6).reshape(2, 3),
    "numpy strings": np.array(["a", "b"]),
    "numpy types": [np.dtype("float32"), np.float32, np.dtype(np.int64)],
    "random state": np.random.RandomState(0).get_state(),
    "random generators": [np.random.RandomState(0), np.random.default_rng(0)],
    "time": time.localtime(0),
    "decimal": [decimal.Decimal("1.5"), fractions.Fraction(1, 3)],
    "uuid": uuid.UUID(int=5),
    "python types": [int, float, list, dict, str, range(3), slice(1, 2), frozenset({1}), {2}, 1j],
    "bytes": [b"x", bytearray(b"y")],
    "big numbers": [2**40, -1, 1e300, None, True],
    "torch": [torch.float32, torch.device("cpu"), torch.Size([1, 2]), torch.__version__],
}


@pytest.mark.parametrize("beside", HARMLESS.values(), ids=HARMLESS.keys())
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_harmless_types_beside_the_weights_are_read(
    beside: Any, zipped: bool, tmp_path: Path
) -> None:
    content = {"state_dict": {"w": WEIGHT}, "beside": beside}
    torch.save(content, tmp_path / "it.pt", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_pickle(tmp_path / "it.pt")["state_dict"]["w"], WEIGHT)


def test_the_weights_may_lie_in_a_default_dict(tmp_path: Path) -> None:
    torch.save(default_dict(), tmp_path / "it.pt")
    assert torch.equal(read_pickle(tmp_path / "it.pt")["state_dict"]["w"], WEIGHT)


class Calls:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = function, arguments
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        return (*self.call, self.state) if self.state is not None else self.call


TOUCH = "touch harmed"

HOSTILE: dict[str, Any] = {
    "system": Calls(os.system, TOUCH),
    "popen": Calls(subprocess.Popen, ["touch", "harmed"]),
    "eval": Calls(eval, "open('harmed', 'w')"),
    "exec": Calls(exec, "open('harmed', 'w')"),
    "open": Calls(open, "harmed", "w"),
    "getattr": Calls(getattr, Path, "touch"),
    "import": Calls(__import__, "os"),
    "partial": Calls(functools.partial, os.system, TOUCH),
    "map": Calls(map, os.system, [TOUCH]),
    "factory": Calls(collections.defaultdict, os.system),
    "factory, filled": collections.defaultdict(os.getcwd, a=1),
    "argument of a type": Calls(argparse.Namespace, Calls(os.system, TOUCH)),
    "state": Calls(argparse.Namespace, state={"run": Calls(os.system, TOUCH)}),
    "numpy's reader": Calls(np.load, "it.pt"),
    "torch's reader": Calls(torch.load, "it.pt"),
    "torch's hub": Calls(torch.hub.load, "a/b", "c"),
    "module": torch.nn.Conv2d(1, 1, 1),
    "class of ours": Calls(pytest.main, []),
    "path method": Calls(Path.touch, Path("harmed")),
    "torch.jit": Calls(torch.jit.load, "it.pt"),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("place", [lambda h: h, lambda h: {"state_dict": {"w": WEIGHT}, "args": h}])
def test_everything_else_is_refused_and_does_not_run(
    content: Any,
    place: Callable[[Any], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(place(content), "it.pt")
    with pytest.raises(CheckpointError, match=r"would run code on loading \(\S+\)") as refused:
        read_pickle(tmp_path / "it.pt")
    assert not (tmp_path / "harmed").exists()
    assert "weights_only" not in str(refused.value) and "safe_globals" not in str(refused.value)


def archive(path: Path, pickled: bytes) -> Path:
    """A checkpoint in PyTorch's format with a pickle of one's own."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3\n")
    return path


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


# Opcodes that Python's own pickler would not write.
RAW = {
    "class of a stand-in": b"\x80\x02cargparse\nNamespace\n)\x81}" + text("__class__")
    + b"cposix\nsystem\nsb.",
    "name with a dot": b"\x80\x02cos\npath.os.system\n(" + text(TOUCH) + b"tR.",
    "module of a name": b"\x80\x02cnumpy\ndtype.__init__.__globals__\n.",
    "stack global": b"\x80\x04" + text("os") + text("system") + b"\x93(" + text(TOUCH) + b"tR.",
    "instance": b"\x80\x02(" + text(TOUCH) + b"ios\nsystem\n.",
    "object": b"\x80\x02(cos\nsystem\n" + text(TOUCH) + b"o.",
    "extension": b"\x80\x02\x82\x01.",
    "old name": b"\x80\x02c__builtin__\neval\n(" + text("1") + b"tR.",
    "protocol 0": b"cos\nsystem\n(S'touch harmed'\ntR.",
    "builtin of a builtin": b"\x80\x02cbuiltins\nobject.__subclasses__\n)R.",
}  # fmt: skip


@pytest.mark.parametrize("pickled", RAW.values(), ids=RAW.keys())
def test_opcodes_that_reach_for_names_are_refused(
    pickled: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"would run code|damaged, truncated, or not") as said:
        read_pickle(archive(tmp_path / "it.pt", pickled))
    assert not (tmp_path / "harmed").exists()
    assert "weights_only" not in str(said.value)


def test_stand_ins_are_inert_whatever_is_done_with_them(tmp_path: Path) -> None:
    """Made with any arguments, given any state, called again."""
    namespace = b"cargparse\nNamespace\n"
    state = b"}" + text("__class__") + b"cpathlib\nPosixPath\ns"
    made = namespace + b"(" + text("x") + text("y") + b"tR" + state + b"b"
    again = namespace + b")\x81" + state + b"b"
    scalar = b"cnumpy.core.multiarray\nscalar\n(" + text("not a type") + b"tR"
    pickled = b"\x80\x02(" + made + again + scalar + b"t."
    found = read_pickle(archive(tmp_path / "x", pickled))
    assert [type(value).__name__ for value in found] == ["OrderedDict", "OrderedDict", "_Inert"]


def test_the_callers_own_torch_load_is_as_before(tmp_path: Path) -> None:
    """The stand-ins are gone afterwards, and no warning of PyTorch's is seen."""
    torch.save({"args": argparse.Namespace(a=1)}, tmp_path / "it.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_pickle(tmp_path / "it.pt")
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        torch.load(tmp_path / "it.pt")
    assert "omegaconf" not in sys.modules


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_another_protocol_is_named_without_bad_advice(protocol: int, tmp_path: Path) -> None:
    torch.save({"w": WEIGHT, "e": [b"x"]}, tmp_path / "it.pt", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"another protocol than torch\.save") as said:
        read_pickle(tmp_path / "it.pt")
    assert "weights_only" not in str(said.value)


def test_a_changed_bit_of_a_weight_is_found(tmp_path: Path) -> None:
    path = tmp_path / "it.pt"
    torch.save({"w": torch.full((64,), 3.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((64,), 3.0).numpy().tobytes()) + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"the CRC-32 of it/data/0 is wrong"):
        read_pickle(path)


def rezipped(path: Path, names: list[str], compression: int) -> Path:
    """The archive anew, with one of its entries at another place or in another form."""
    with zipfile.ZipFile(path) as old:
        content = {name: old.read(name) for name in old.namelist()}
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as new:
        warnings.simplefilter("ignore")  # that a name occurs twice
        for name in [*content, *names]:
            new.writestr(name, content.get(name, b""))
    return path


@pytest.mark.parametrize(
    ("names", "compression", "message"),
    [
        (["it/data/0"], zipfile.ZIP_STORED, "two of its entries have the same name"),
        (["IT/data.pkl"], zipfile.ZIP_STORED, "two of its entries have the same name"),
        ([], zipfile.ZIP_DEFLATED, "its entries are compressed"),
    ],
)
def test_an_archive_of_another_form_is_refused(
    names: list[str], compression: int, message: str, tmp_path: Path
) -> None:
    torch.save({"w": torch.zeros(10_000)}, tmp_path / "it.pt")
    with pytest.raises(CheckpointError, match=message):
        read_pickle(rezipped(tmp_path / "it.pt", names, compression))


def test_a_storage_that_an_old_file_does_not_fill_is_refused(tmp_path: Path) -> None:
    """Its last pickle lists the storages whose bytes follow; others would be what memory held."""
    path = tmp_path / "it.pth"
    torch.save({"v": WEIGHT, "w": WEIGHT + 1}, path, _use_new_zipfile_serialization=False)
    content = io.BytesIO(path.read_bytes())
    for _ in range(4):
        list(pickletools.genops(content))
    start = content.tell()
    keys = pickle.load(content)
    listed = pickle.dumps(keys[:1], 2)
    path.write_bytes(content.getvalue()[:start] + listed + content.read())
    with pytest.raises(CheckpointError, match="more bytes than its pickles say"):
        read_pickle(path)


@pytest.mark.parametrize("is_old", [False, True])
def test_a_key_that_would_be_hashed_for_years_is_refused(is_old: bool, tmp_path: Path) -> None:
    """40 tuples, each with the one before it twice: 2**40 entries in some hundred bytes."""
    one = b"K\x07\x85q\x01"
    twice = b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(1, 41))
    pickled = b"\x80\x02" + one + twice + b"}h\x29K\x01s."
    path = tmp_path / "it.pt"
    if is_old:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        heads = path.read_bytes().partition(b"}q\x00.")[0]
        path.write_bytes(heads.removesuffix(b"\x80\x02") + pickled + pickle.dumps([], 2))
    else:
        archive(path, pickled)
    with pytest.raises(CheckpointError, match="a tuple in its pickle holds the same ones"):
        read_pickle(path)


def test_a_tensor_that_is_larger_than_its_entry_is_refused(tmp_path: Path) -> None:
    """Else it would hold what lies in memory behind it."""
    torch.save({"w": torch.zeros(16)}, tmp_path / "it.pt")
    with zipfile.ZipFile(tmp_path / "it.pt") as old:
        entries = {name: old.read(name) for name in old.namelist()}
    larger = b"M" + (5000).to_bytes(2, "little")
    with zipfile.ZipFile(tmp_path / "it.pt", "w") as new:
        for name, content in entries.items():
            changed = content.replace(b"K\x10", larger) if name.endswith("data.pkl") else content
            new.writestr(name, changed)
    with pytest.raises(CheckpointError, match=r"record size \(64 bytes\) does not match"):
        read_pickle(tmp_path / "it.pt")
