"""The two files of an engine: the plan that TensorRT loads, and a manifest of its origin.

A plan is code: TensorRT runs its content. So a plan is loaded only if its manifest, written by the
build, has its digest, or if the user vouches for it. The digests find damage, mix-ups and careless
edits. They are not a signature: whoever can write both files can forge both.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from adadm.runtime.engines.tensorrt_api import Flavour, Profile
from adadm.runtime.errors import EngineError
from adadm.runtime.files import mistaken, opened, written_whole
from adadm.runtime.json_format import as_json, read
from adadm.runtime.progress import SILENT, Progress

_OUTCOME = {"engine_sha256", "engine_bytes", "activation_bytes", "ledger", "sha256"}
# Results, or fields that follow from others. Any new field enters the key, to be safe.
_NOT_IN_KEY = {*_OUTCOME, "format", "model", "metadata"}

_TITLES: dict[Flavour, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}
_AGAIN = "build the engine again with `adadm build`"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Inputs and results of the build of an engine.

    Attributes:
        engine_sha256, engine_bytes: digest and size of the plan.
        model, model_sha256: name and digest of the ONNX file.
        calibration_sha256: digest of the calibration images; None if there were none.
        precision: float32, fp16 or int8.
        tensorrt: full version of TensorRT, such as 1.7.1.116.
        compute_capabilities: GPUs that the engine was built for, such as `SM89`.
        profiles: optimization profiles: shapes by input name.
        flags: other settings of the build, such as `workspace_bytes`.
        activation_bytes: device memory of a context, by profile.
        metadata: metadata of the ONNX file, without channel maps; a plan has none itself.
        ledger: measured cost in quality of the lowering, if any.
        sha256: digest of all other fields in the file; empty until it is written.
    """

    format: Literal[1] = 1
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
    sha256: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        """Digest of the build's inputs: equal keys mean equal engines."""
        return self._digest_without(_NOT_IN_KEY)

    @property
    def digest(self) -> str:
        """Value that `sha256` must have in the file."""
        return self._digest_without({"sha256"})

    def _digest_without(self, names: set[str]) -> str:
        content = {name: value for name, value in as_json(self).items() if name not in names}
        # Canonical: equal content gives equal text.
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def manifest_path(engine: Path) -> Path:
    """Path of an engine's manifest: `x2.engine.json` for `x2.engine`."""
    return engine.with_name(f"{engine.name}.json")


@contextmanager
def locked(engine: Path, *, progress: Progress = SILENT) -> Iterator[None]:
    """Hold the build lock of an engine's folder, which is made if missing.

    Two builders at once would disturb each other's timings and exhaust a small device's memory.
    The lock is on the folder itself and ends with the process: no file is left behind.

    Raises:
        OSError: the folder cannot be made or read.
    """
    engine.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(engine.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.message(f"waiting for another build in {engine.parent}")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def write_engine(engine: Path, plan: bytes, manifest: Manifest) -> None:
    """Write an engine and its manifest, both or none.

    Both are written in full under temporary names before the first is renamed. A crash between the
    two renames leaves the new manifest with the old plan or without a plan. `read_engine` refuses
    such a pair by the digest. A plan alone, which `trust` would accept, never occurs.

    Raises:
        OSError: a file cannot be written, or the disk is full.
    """
    content = as_json(replace(manifest, sha256=manifest.digest))
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    with ExitStack() as files:
        files.enter_context(written_whole(engine)).write_bytes(plan)
        # Files are renamed in reverse order.
        new_manifest = files.enter_context(written_whole(manifest_path(engine)))
        new_manifest.write_text(text, encoding="utf-8")


def read_manifest(engine: Path) -> Manifest:
    """Read the manifest of an engine.

    Raises:
        EngineError: the manifest is missing or unreadable, has another format, or another digest
            than it states.
    """
    path = manifest_path(engine)
    if not path.exists():
        raise EngineError(
            f"{engine} has no manifest {path.name} beside it, and a plan is code. Build the engine "
            "with `adadm build`; if trtexec built it here, write its manifest with `adadm build "
            "--adopt`; or trust it (open_session(..., trust=True), verify.py --trust)"
        )
    manifest = read(Manifest, path, error=EngineError, advice=_AGAIN)
    if manifest.sha256 != manifest.digest:
        raise EngineError(
            f"{path} was edited or is damaged: expected sha256 {manifest.digest}, got "
            f"{manifest.sha256}; {_AGAIN}"
        )
    return manifest


def read_engine(engine: Path, *, trust: bool = False) -> tuple[bytes, Manifest | None]:
    """Read a plan once, and check it against its manifest.

    Args:
        trust: the user vouches for the plan, which then needs no manifest. An existing manifest
            must match nevertheless.

    Returns:
        The checked plan and its manifest, or None without one.

    Raises:
        EngineError: the engine or its manifest is missing, empty or damaged, or they are from
            different builds.
    """
    try:
        with opened(engine) as file:
            plan = file.read()
    except OSError as error:
        raise EngineError(
            f"{engine} cannot be read: {error.strerror}; build it with `adadm build`"
        ) from error
    if not plan:
        raise EngineError(f"{engine} is empty; {_AGAIN}")
    if (problem := mistaken(plan[:1000])) is not None:
        raise EngineError(f"{engine} {problem}; or {_AGAIN}")
    if trust and not manifest_path(engine).exists():
        return plan, None
    manifest = read_manifest(engine)
    if (digest := hashlib.sha256(plan).hexdigest()) != manifest.engine_sha256:
        raise EngineError(
            f"{engine} is damaged, or {manifest_path(engine).name} belongs to a different engine: "
            f"expected {manifest.engine_bytes} bytes of sha256 {manifest.engine_sha256}, got "
            f"{len(plan)} of {digest}; {_AGAIN}"
        )
    return plan, manifest


def is_up_to_date(engine: Path, key: str) -> Manifest | None:
    """Manifest of an intact engine with this `key`, else None."""
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
        compute_capability: that of the GPU, such as `SM86`; None without a GPU.

    Raises:
        EngineError: the engine was built by another TensorRT or for another GPU, or there is no
            GPU.
    """
    of = f"the engine of {manifest.model}"
    if (manifest.flavour, manifest.tensorrt) != (flavour, tensorrt_version):
        raise EngineError(
            f"{of} requires {_TITLES[manifest.flavour]} {manifest.tensorrt}, got "
            f"{_TITLES[flavour]} {tensorrt_version}: a plan runs only on the version that built "
            "it. Install that version, or build the engine here with `adadm build`"
        )
    built_for = " or ".join(manifest.compute_capabilities)
    if compute_capability is None:
        raise EngineError(
            f"{of} requires a GPU of {built_for}, got none; run it on such a machine, or check the "
            "driver with nvidia-smi"
        )
    if compute_capability not in manifest.compute_capabilities:
        raise EngineError(
            f"{of} requires a GPU of {built_for}, got {compute_capability}; build the engine for "
            "it with `adadm build`"
        )
