"""Build an engine on this machine, with a manifest of its inputs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from adadm.runtime.engines import cuda_runtime
from adadm.runtime.engines.build_monitor import Message
from adadm.runtime.engines.manifest import Manifest, is_up_to_date, locked, write_engine
from adadm.runtime.engines.recipe import Recipe
from adadm.runtime.engines.tensorrt_api import build_engine, load_tensorrt
from adadm.runtime.engines.weak_typing import weak_flags
from adadm.runtime.errors import EngineError, MissingDependencyError, SessionError
from adadm.runtime.files import opened, read_cache, write_cache, written_whole
from adadm.runtime.json_format import read
from adadm.runtime.models.bundled import report_path
from adadm.runtime.models.metadata import QuantizationNote
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.records import digest_of
from adadm.runtime.targets import Target

Machine = tuple[str, tuple[str, ...]]
"""TensorRT version and compute capabilities to build for."""


def build(
    recipe: Recipe,
    engine: Path,
    timing_cache: Path | None = None,
    *,
    force: bool = False,
    progress: Progress = SILENT,
) -> tuple[Manifest, bool]:
    """Build an engine, unless the existing file was made from the same inputs.

    Only one build at a time runs in a folder: builders time kernels, and a device has memory for
    one.

    Args:
        timing_cache: file with kernel timings of earlier builds; made if missing.
        force: build in any case.

    Returns:
        The manifest; and True if the engine was built now.

    Raises:
        EngineError: this machine is not the target, or building fails; the builder's messages
            are then in a `.log` file beside the engine.
        MissingDependencyError: TensorRT is not installed.
    """

    def warn(text: str) -> None:
        progress.message(text, warning=True)

    machine = check_builds_here(recipe)
    settings = recipe.settings
    if recipe.flavour == "rtx":
        if timing_cache is not None:
            raise EngineError(
                "TensorRT for RTX times nothing when it builds; leave out --timing-cache"
            )
        settings = replace(settings, compute_capabilities=machine[1])
    key = _manifest(recipe, machine, b"", ()).key
    with locked(engine, progress=progress):
        found = None if force else is_up_to_date(engine, key)
        if found is not None:
            return found, False
        cache = None
        if timing_cache is not None:
            cache = read_cache(timing_cache, "timing", warn)
        log: list[Message] = []
        try:
            built = build_engine(
                recipe.model.content,
                recipe.profiles,
                recipe.flavour,
                settings=settings,
                timing_cache=cache,
                log=log,
                progress=progress,
            )
        except EngineError as error:
            lines = [*(f"[{severity}] {said}" for severity, said in log), str(error)]
            with written_whole(log_path(engine)) as partial:
                partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
            several = recipe.flavour == "rtx" and len(machine[1]) > 1
            remedy = "; name the GPUs that matter: --compute-capability" if several else ""
            raise EngineError(
                f"{recipe.model.path}: {error}\n  see the log {log_path(engine)}{remedy}"
            ) from error
        manifest = _manifest(recipe, machine, built.plan, built.activation_bytes)
        write_engine(engine, built.plan, manifest)
        if timing_cache is not None and built.timing_cache is not None:
            write_cache(timing_cache, built.timing_cache, "timing", warn)
        log_path(engine).unlink(missing_ok=True)  # of an earlier failure
    return manifest, True


def log_path(engine: Path) -> Path:
    """Path of the builder's log, written if it fails."""
    return engine.with_name(f"{engine.name}.log")


def adopt(recipe: Recipe, plan: Path, engine: Path) -> Manifest:
    """Copy an engine that trtexec built by this recipe on this machine, and write its manifest.

    The caller vouches that the plan comes from the recipe: nothing can check it.

    Raises:
        EngineError: the plan is missing or empty, or this machine is not the target.
    """
    machine = check_builds_here(recipe)
    try:
        with opened(plan) as file:
            content = file.read()
    except OSError as error:
        raise EngineError(f"{plan}: cannot be read ({error.strerror})") from error
    if not content:
        raise EngineError(f"{plan} is empty, trtexec did not finish; build again")
    manifest = _manifest(recipe, machine, content, ())
    with locked(engine):
        write_engine(engine, content, manifest)
    return manifest


def check_builds_here(recipe: Recipe) -> Machine:
    """Refuse a machine that cannot build an engine, before minutes of building.

    Raises:
        EngineError: the machine is not the target.
        MissingDependencyError: TensorRT is not installed.
        SessionError: there is no GPU.
    """
    target = recipe.target
    try:
        version = str(load_tensorrt(recipe.flavour).__version__)
    except MissingDependencyError as error:
        if target.jetpack is None:
            raise
        raise EngineError(
            f"an engine for {target.description} must be built on that device, and TensorRT for "
            f"Python is not installed here; 'adadm bundle --target {target.name}' makes a folder "
            "that builds it there, --print-command prints the line for trtexec"
        ) from error
    if not _has_version(target, version):
        raise EngineError(
            f"expected TensorRT {target.tensorrt} for {target.name}, got {version}: an engine runs "
            "only on the version that built it. Choose the target of this machine, or build on the "
            "device ('adadm bundle')"
        )
    capabilities = recipe.settings.compute_capabilities
    try:
        capabilities = capabilities or (cuda_runtime.compute_capability(),)
    except (MissingDependencyError, SessionError):  # no GPU
        if recipe.flavour != "rtx":
            raise
        capabilities = target.compute_capabilities
    others = sorted(set(capabilities) - set(target.compute_capabilities))
    if target.compute_capabilities and others:
        raise EngineError(
            f"expected a GPU of {target.name} ({', '.join(target.compute_capabilities)}), got "
            f"{', '.join(others)}"
        )
    return version, capabilities


def _has_version(target: Target, version: str) -> bool:
    numbers = [int(part) for part in version.split(".")[:2]]
    wanted = [int(part) for part in str(target.tensorrt).split(".")[:2]]
    return numbers == wanted if target.jetpack else numbers[0] == wanted[0] and numbers >= wanted


def _manifest(
    recipe: Recipe, machine: Machine, plan: bytes, activation_bytes: tuple[int, ...]
) -> Manifest:
    settings, model, quantization = recipe.settings, recipe.model, recipe.quantization
    tensorrt, capabilities = machine
    return Manifest(
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        engine_bytes=len(plan),
        model=model.path.name,
        model_sha256=model.sha256,
        calibration_sha256=quantization.get("images_sha256") if quantization else None,
        target=recipe.target.name,
        precision=recipe.precision,
        flavour=recipe.flavour,
        tensorrt=tensorrt,
        compute_capabilities=capabilities,
        profiles=tuple(dict(profile) for profile in recipe.profiles),
        flags={
            "tf32": False,
            **weak_flags(settings.weak_typing),
            "workspace_bytes": settings.workspace_bytes,
        },
        activation_bytes=activation_bytes or None,
        metadata=replace(model.metadata, channel_maps=None).to_props(),  # only for graphs
        ledger=ledger_beside(model.path, quantization),
    )


def ledger_beside(model: Path, noted: QuantizationNote | None) -> dict[str, Any] | None:
    """The report of `adadm quantize` beside a model, if it belongs to this model.

    Args:
        noted: quantization in the model's metadata.
    """
    path = report_path(model)
    if noted is None or not path.is_file():
        return None
    try:
        report = read(dict[str, Any], path, error=EngineError)
        same = all(report[name] == noted[name] for name in ("precision", "target", "budget_db"))
        same = same and report["calibration"]["images_sha256"] == noted["images_sha256"]
        same = same and report["sha256"] == digest_of(report)
    except (EngineError, KeyError, TypeError):  # a file of another tool
        return None
    return report if same else None
