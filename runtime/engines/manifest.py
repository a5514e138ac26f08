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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from adadm.runtime.engines.tensorrt_api import Flavour, Profile
from adadm.runtime.errors import EngineError
from adadm.runtime.files import written_whole
from adadm.runtime.json_format import as_json, read
from adadm.runtime.progress import SILENT, Progress

_OUTCOME = {"engine_sha256", "engine_bytes", "activation_bytes", "ledger", "sha256"}
# What came out, or follows from the rest. Any other field is in the key: rather one build too many.
_NOT_IN_KEY = {*_OUTCOME, "format", "model", "metadata"}

_TITLES: dict[Flavour, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}
_AGAIN = "build the engine again with `adadm build`"


@dataclass(frozen=True, kw_only=True)
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
        metadata: of the ONNX file, but for its channel maps; a plan has none.
        ledger: of the quality that the lowering cost, where it was measured.
        sha256: the digest of all the rest, as a file has it; empty until it is written.
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
        """A digest of what the engine is made from: where it is the same, so is the engine."""
        return self._digest_without(_NOT_IN_KEY)

    @property
    def digest(self) -> str:
        """What `sha256` of its file has to be."""
        return self._digest_without({"sha256"})

    def _digest_without(self, names: set[str]) -> str:
        content = {name: value for name, value in as_json(self).items() if name not in names}
        # The same content is the same text.
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


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
    content = as_json(replace(manifest, sha256=manifest.digest))
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    with ExitStack() as files:
        files.enter_context(written_whole(engine)).write_bytes(plan)
        # The last to enter is the first to be renamed.
        new_manifest = files.enter_context(written_whole(manifest_path(engine)))
        new_manifest.write_text(text, encoding="utf-8")


def read_manifest(engine: Path) -> Manifest:
    """The manifest of an engine.

    Raises:
        EngineError: it is missing or unreadable, has another format, or does not have the digest
            that it names.
    """
    path = manifest_path(engine)
    if not path.exists():
        raise EngineError(
            f"{engine} has no manifest {path.name} beside it, and a plan is code: expected one "
            "that was built here. Build it with `adadm build`; if trtexec built it here, give it "
            "a manifest with `adadm build --adopt`; or trust it (open_session(..., trust=True), "
            "verify.py --trust)"
        )
    manifest = read(Manifest, path, error=EngineError, advice=_AGAIN)
    if manifest.sha256 != manifest.digest:
        raise EngineError(
            f"{path} was edited or is damaged: sha256 is {manifest.sha256}, expected "
            f"{manifest.digest}; {_AGAIN}"
        )
    return manifest


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
