"""An engine's two files: the plan that TensorRT loads, and a manifest of what it was built from.

A plan is code: TensorRT runs what is in it. So nothing is loaded but a plan whose manifest, written
by the build, has its digest; or one that the user vouches for. The digests find damage, mix-ups and
careless edits. They are no signature: whoever can write both files can forge both.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from adadm.runtime.engines.tensorrt_api import Flavour, Profile, Shape
from adadm.runtime.errors import EngineError
from adadm.runtime.files import written_whole
from adadm.runtime.progress import SILENT, Progress

__all__ = [
    "Manifest",
    "check_runs_here",
    "is_up_to_date",
    "locked",
    "manifest_path",
    "read_engine",
    "read_manifest",
    "write_engine",
]

_FORMAT = 1

# What came out, or follows from the rest. Any other field is in the key: rather one build too many.
_NOT_IN_KEY = {"engine_sha256", "engine_bytes", "model", "activation_bytes", "metadata", "ledger"}

_TITLES: dict[Flavour, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}
_AGAIN = "build the engine again with `adadm build`"


@dataclass(frozen=True)
class Manifest:
    """What an engine was built from, and what came out.

    Attributes:
        engine_sha256, engine_bytes: of the plan.
        model, model_sha256: the name and the digest of the ONNX file.
        calibration_sha256: of the images, where the model was calibrated.
        precision: float32, fp16 or int8.
        tensorrt: its full version, such as 1.7.1.116.
        compute_capabilities: of the GPU that built the engine, or that it was built for; `SM89`.
        profiles: shapes by input name, one optimization profile an entry.
        flags: whatever else chose the engine, such as `workspace_bytes`.
        activation_bytes: device memory of a context, one number a profile.
        metadata: of the ONNX file; a plan has none.
        ledger: of the quality that the lowering cost, where it was measured.
    """

    engine_sha256: str
    engine_bytes: int
    model: str
    model_sha256: str
    calibration_sha256: str | None
    target: str
    precision: str
    flavour: Flavour
    tensorrt: str
    compute_capabilities: tuple[str, ...]
    profiles: tuple[dict[str, Profile], ...]
    flags: dict[str, Any]
    activation_bytes: tuple[int, ...] | None
    metadata: dict[str, str]
    ledger: dict[str, Any] | None

    @property
    def key(self) -> str:
        """A digest of what the engine is made from: where it is the same, so is the engine."""
        return _digest({k: v for k, v in asdict(self).items() if k not in _NOT_IN_KEY})

    def as_json(self) -> dict[str, Any]:
        """The content of the file, with the digest of all the rest as `sha256`."""
        found: dict[str, Any] = json.loads(_canonical({"format": _FORMAT, **asdict(self)}))
        return {**found, "sha256": _digest(found)}

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any], path: Path) -> Manifest:
        """The inverse of `as_json`.

        Args:
            path: the file, for messages.

        Raises:
            EngineError: it has another format, lacks a field or has one of a wrong type, or does
                not have the digest that it names.
        """
        found = mapping.get("format")
        if type(found) is not int or found != _FORMAT:
            raise EngineError(f"{path}: format is {found!r}, expected {_FORMAT}; {_AGAIN}")
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for field in fields(cls):
            name = field.name
            try:
                values[name] = _converted(mapping[name], hints[name])
            except (KeyError, TypeError) as error:
                found = reprlib.repr(mapping[name]) if name in mapping else "missing"
                raise EngineError(
                    f"{path}: {name} is {found}, expected {field.type}; {_AGAIN}"
                ) from error
        named = mapping.get("sha256")
        if named != (digest := _digest({k: v for k, v in mapping.items() if k != "sha256"})):
            raise EngineError(
                f"{path} was edited or is damaged: sha256 is {named}, expected {digest}; {_AGAIN}"
            )
        return cls(**values)


def manifest_path(engine: Path) -> Path:
    """Where the manifest of an engine is: `x2.engine` has `x2.engine.json`."""
    return engine.with_name(f"{engine.name}.json")


@contextmanager
def locked(engine: Path, *, progress: Progress = SILENT) -> Iterator[None]:
    """Be the only one that builds in the folder of an engine, which is made when missing.

    Two builders at once would disturb each other's timings, and run out of a small device's memory.
    The lock is on the folder itself and ends with the process: no file is left behind.

    Raises:
        OSError: the folder cannot be made, or not be read.
    """
    engine.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(engine.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.message(f"another build is writing to {engine.parent}: waiting for it")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def write_engine(engine: Path, plan: bytes, manifest: Manifest) -> None:
    """Write an engine and its manifest, both or none.

    Both are written in full beside their places before the first is renamed. A crash between the
    two renames leaves the new manifest with the old plan or with none. No such pair passes
    `read_engine`, because a manifest has the digest of its plan; and never is there a plan alone,
    which trust would let through.

    Raises:
        OSError: a file cannot be written, or the disk is full.
    """
    text = json.dumps(manifest.as_json(), indent=2, sort_keys=True) + "\n"
    with ExitStack() as files:
        files.enter_context(written_whole(engine)).write_bytes(plan)
        # The last to enter is the first to be renamed.
        new_manifest = files.enter_context(written_whole(manifest_path(engine)))
        new_manifest.write_text(text, encoding="utf-8")


def read_manifest(engine: Path) -> Manifest:
    """The manifest of an engine.

    Raises:
        EngineError: it is missing or unreadable, or refused by `Manifest.from_json`.
    """
    path = manifest_path(engine)
    try:
        content = json.loads(path.read_bytes())
        return Manifest.from_json(content if isinstance(content, dict) else {}, path)
    except FileNotFoundError as error:
        raise EngineError(
            f"{engine} has no manifest {path.name} beside it, and a plan is code: expected one "
            "that was built here. Build it with `adadm build`; if trtexec built it here, give it "
            "a manifest with `adadm build --adopt`; or trust it (open_session(..., trust=True), "
            "verify.py --trust)"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"{path} cannot be read as JSON: {error}; {_AGAIN}") from error


def read_engine(engine: Path, *, trust: bool = False) -> tuple[bytes, Manifest | None]:
    """Read a plan once, and check it against its manifest.

    Args:
        trust: the user vouches for the plan, which then needs no manifest. One that is there must
            fit all the same: else one of the two files is not what it says.

    Returns:
        The bytes that were checked, and the manifest; None where there is none.

    Raises:
        EngineError: the engine or its manifest is missing, empty or damaged, or they are not of
            one build.
    """
    try:
        plan = engine.read_bytes()
    except OSError as error:
        raise EngineError(
            f"{engine} cannot be read: {error.strerror}; build it with `adadm build`"
        ) from error
    if not plan:
        raise EngineError(f"{engine} is empty, expected an engine; {_AGAIN}")
    if trust and not manifest_path(engine).exists():
        return plan, None
    manifest = read_manifest(engine)
    if (digest := hashlib.sha256(plan).hexdigest()) != manifest.engine_sha256:
        raise EngineError(
            f"{engine} is damaged, or {manifest_path(engine).name} is another engine's: the plan "
            f"has {len(plan)} bytes of sha256 {digest}, expected {manifest.engine_bytes} of "
            f"{manifest.engine_sha256}; {_AGAIN}"
        )
    return plan, manifest


def is_up_to_date(engine: Path, key: str) -> Manifest | None:
    """The manifest of an engine that is whole and was made from what `key` stands for, or None."""
    try:
        _, manifest = read_engine(engine)
    except EngineError:
        return None
    return manifest if manifest is not None and manifest.key == key else None


def check_runs_here(
    manifest: Manifest, flavour: Flavour, tensorrt_version: str, compute_capability: str | None
) -> None:
    """Check that an engine was built for this machine.

    Args:
        compute_capability: of the GPU, such as `SM86`; None where there is none.

    Raises:
        EngineError: it was built by another TensorRT, or for another GPU, or there is no GPU.
    """
    of = f"the engine of {manifest.model}"
    if (manifest.flavour, manifest.tensorrt) != (flavour, tensorrt_version):
        raise EngineError(
            f"{of} was built by {_TITLES[manifest.flavour]} {manifest.tensorrt}, and here is "
            f"{_TITLES[flavour]} {tensorrt_version}: a plan is for the version that built it. "
            "Install that one, or build the engine here with `adadm build`"
        )
    built_for = " or ".join(manifest.compute_capabilities)
    if compute_capability is None:
        raise EngineError(
            f"{of} needs a GPU of {built_for}, and no GPU is found here; run it on such a "
            "machine, or check the driver with nvidia-smi"
        )
    if compute_capability not in manifest.compute_capabilities:
        raise EngineError(
            f"{of} was built for {built_for}, and the GPU here is {compute_capability}; "
            "build the engine for it with `adadm build`"
        )


def _canonical(content: object) -> str:
    """The same content is the same text."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _digest(content: object) -> str:
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def _converted(value: Any, hint: Any) -> Any:
    """What JSON has for a field, as the type that the field is annotated with.

    Raises:
        TypeError: it does not fit.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:  # with None
        return None if value is None else _converted(value, inner[0])
    if origin is tuple and type(value) is list:
        return tuple(_converted(entry, inner[0]) for entry in value)
    if origin is dict and type(value) is dict:
        return {name: _converted(entry, inner[1]) for name, entry in value.items()}
    if hint is Profile and type(value) is dict:  # another keyword is a TypeError too
        return Profile(**{name: _converted(shape, Shape) for name, shape in value.items()})
    if hint is Any or type(value) is hint or (origin is Literal and value in inner):
        return value  # by its type: isinstance would take True for a number
    raise TypeError
