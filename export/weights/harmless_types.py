"""Read PyTorch's pickles without running any code that they name.

PyTorch's restricted unpickler makes tensors and plain containers, and refuses every other name.
Training scripts save more beside the weights: their arguments, paths, dates, numbers of NumPy.
Those types are read as inert stand-ins: no class and no function of that name is ever imported,
made or called. Dictionaries and namespaces of any kind keep their entries, nothing else does.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch

from adadm.runtime.errors import CheckpointError
from adadm.runtime.files import opened


class _Inert:
    """Stand-in of an object whose content is not needed."""

    def __new__(cls, *_: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _Mapping:
    """Stand-in of a dictionary or namespace: it makes a dictionary, which the unpickler fills."""

    def __new__(cls, *_: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class _Sequence:
    """Stand-in of a kind of list."""

    def __new__(cls, *_: object) -> list[Any]:  # type: ignore[misc]
        return []


_NUMBERS = "bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 str_"
_HARMLESS = {
    "builtins": "bool bytes float frozenset int object range slice str tuple type",
    "copyreg": "_reconstructor",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "numpy": f"dtype ndarray {_NUMBERS}",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "numpy.random._pickle": "__bit_generator_ctor __generator_ctor __randomstate_ctor",
    "numpy.random.bit_generator": "__pyx_unpickle_SeedSequence SeedSequence",
    "numpy.random._mt19937": "MT19937",
    "numpy.random._pcg64": "PCG64",
    "omegaconf.base": "ContainerMetadata Metadata",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.nodes": "AnyNode BooleanNode FloatNode IntegerNode PathNode StringNode",
    "packaging.version": "Version _Version",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "pytorch_lightning.callbacks.model_checkpoint": "ModelCheckpoint",
    "time": "struct_time",
    "torch.torch_version": "TorchVersion",
    "typing": "Any",
    "uuid": "SafeUUID UUID",
}
_MAPPINGS = {
    "addict.addict": "Dict",
    "argparse": "Namespace",
    "builtins": "dict",
    "collections": "defaultdict",
    "easydict": "EasyDict",
    "lightning.fabric.utilities.data": "AttributeDict",
    "lightning.pytorch.utilities.parsing": "AttributeDict",
    "lightning_fabric.utilities.data": "AttributeDict",
    "pytorch_lightning.utilities.parsing": "AttributeDict",
    "types": "SimpleNamespace",
    "yacs.config": "CfgNode",
}
_SEQUENCES = {"builtins": "list", "collections": "deque"}

_STAND_INS: list[Any] = [
    (stand_in, f"{module}.{name}")
    for stand_in, names in ((_Inert, _HARMLESS), (_Mapping, _MAPPINGS), (_Sequence, _SEQUENCES))
    for module, listed in names.items()
    for name in listed.split()
]


def read_pickle(path: Path) -> Any:
    """Read a file of `torch.save` on the CPU; objects of harmless types become stand-ins.

    Raises:
        CheckpointError: the file names a function or class that is not known to be harmless, or
            is damaged.
    """
    try:
        with (
            opened(path) as file,  # by its name, PyTorch would take it for another format
            torch.serialization.safe_globals(_STAND_INS),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of protocols: what cannot be read is an error
            if (start := file.read(2)) == b"PK":
                _check_archive(file)
            else:
                file.seek(0)
                for _ in range(_PICKLES):
                    if file.read(1):  # else PyTorch says what is missing
                        file.seek(-1, os.SEEK_CUR)
                        _check_tuples(file)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
            if start != b"PK" and file.read(1):  # a storage that is not listed is not filled
                raise ValueError("it has more bytes than its pickles say")
            return content
    except Exception as error:  # a damaged file makes torch.load raise anything
        text = str(error)
        if wanted := re.search(r"(?:Unsupported global: )?GLOBAL (\S+)", text):
            raise CheckpointError(
                f"{path} would run code on loading ({wanted[1]}) and was not loaded; save only "
                "its state_dict() and use that file"
            ) from error
        # PyTorch's own text begins with advice to load the file unsafely.
        inner = re.search(r"WeightsUnpickler error:\s*([^\n]*)", text)
        reason = (inner[1] if inner else text.strip()).partition("\n")[0].partition(". ")[0]
        if "Unsupported operand" in reason:
            reason = "its pickle is of another protocol than torch.save writes, which is 2"
        elif "weights_only" in reason:
            reason = "its format is too old or too new"
        raise CheckpointError(
            f"{path} is damaged, truncated, or not a PyTorch checkpoint "
            f"({type(error).__name__}: {reason}); copy it again, or save it "
            "by torch.save(model.state_dict(), ...)"
        ) from error


def _check_archive(file: BinaryIO) -> None:
    """Check the CRC-32 of each entry of a zip archive, which PyTorch does not look at.

    Raises:
        ValueError: an entry has another, or is not stored as by torch.save.
        Exception: of many classes, as zipfile raises them for a damaged archive.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len({entry.filename.lower() for entry in entries}) < len(entries):
            raise ValueError("two of its entries have the same name")
        if sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size:
            raise ValueError("its entries are compressed, or overlap")
        if damaged := archive.testzip():
            raise ValueError(f"the CRC-32 of {damaged} is wrong")
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                _check_tuples(io.BytesIO(archive.read(entry)))


_PICKLES = 5
"""Pickles in a file of PyTorch before 1.6: magic number, version, system, content, storages."""
_MOST_IN_A_TUPLE = 1_000_000


def _check_tuples(pickle: IO[bytes]) -> None:
    """Refuse a tuple that holds one tuple many times, that one another, and so on.

    Each is small, but Python hashes all that is in the outermost, if it is a key: that may take
    years. Other objects have no hash, or one that does not depend on what they hold.

    Raises:
        ValueError: there is such a tuple, or the pickle is damaged.
        IndexError: it is damaged.
    """
    stack: list[int] = []  # by object, what a hash goes through
    marks: list[int] = []
    memo: dict[object, int] = {}
    for opcode, argument, _ in pickletools.genops(pickle):
        name, taken = opcode.name, opcode.stack_before
        if name == "MARK":
            marks.append(len(stack))
        elif "PUT" in name:
            memo[argument] = stack[-1]
        elif "GET" in name:
            stack.append(memo.get(argument, 1))
        elif name.startswith("TUPLE"):
            start = len(stack) - int(name[5:]) if name[5:] else marks.pop()
            stack[start:] = [1 + sum(stack[start:])]
            if stack[-1] > _MOST_IN_A_TUPLE:
                raise ValueError("a tuple in its pickle holds the same ones again and again")
        else:
            if pickletools.markobject in taken:
                del stack[marks.pop() :]
                taken = taken[: taken.index(pickletools.markobject)]
            del stack[len(stack) - len(taken) :]
            stack += [1] * len(opcode.stack_after)
