"""A bundle: a folder for a device without network, and the manifest of its content.

The digests find damage and mix-ups. They are not a signature: whoever writes the folder writes
them too. `adadm bundle --sign` signs the manifest.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import numpy as np

from adadm.runtime.engines.manifest import manifest_path, read_manifest
from adadm.runtime.engines.tensorrt_api import Profile, Profiles, Shape
from adadm.runtime.errors import EngineError
from adadm.runtime.files import path_inside, real_path, sha256_of
from adadm.runtime.json_format import Source, key, read
from adadm.runtime.sessions.session import FloatArray
from adadm.runtime.targets import TARGETS, Target
from adadm.runtime.terminal import shown

MANIFEST = "MANIFEST.json"
SIGNATURE = f"{MANIFEST}.sig"
_PRODUCTS = ("result.json", "outputs/*.json", "outputs/*.log", f"lib-{'[0-9a-f]' * 12}*")
"""Patterns of what the device makes besides engines; `verify.py` compares lib-* with the wheels."""
_IMPORTABLE = (".py", ".pyc", ".so", "/")
_AGAIN = "make the bundle again with `adadm bundle`"


@dataclass(frozen=True, kw_only=True)
class ReferenceCase:
    """Inputs, and the outputs of a variant of the model for them.

    Attributes:
        variant: `whole`, `tile` or `moments`.
        file: .npz with each input and output by name; for `whole` each factor too.
        inputs: shapes of the inputs by name.
        psnr_db: required PSNR of each output against the reference's own peak, dB.
    """

    name: str
    variant: str = key("form")
    file: str
    inputs: Mapping[str, Shape]
    psnr_db: Mapping[str, float]


@dataclass(frozen=True)
class ShapeRange:
    """A `Profile` of one input, in the format of the manifest."""

    min: Shape
    opt: Shape
    max: Shape


@dataclass(frozen=True, kw_only=True)
class BundleManifest:
    """Content of MANIFEST.json. Files are named relative to its folder.

    Attributes:
        adadm: version that made the bundle.
        source_sha256: digest of the source model, before conversion to the target's form.
        target_name: one of `TARGETS`.
        tensorrt: TensorRT version of the target.
        quantization: record of `adadm quantize`; None for a float32 export.
        models, engines, shapes: by variant; `whole` is always present.
        workspace_bytes: limit of the builder's scratch memory; None leaves it to TensorRT.
        factors_patch: file whose bytes, appended to the model, add the outputs `factor_0`,
            `factor_1`, ..., as protobuf merges consecutive messages; None for a model without
            modulators.
        factor_tolerance: largest error of a factor, relative to the largest of its block.
        references: at least one for each variant.
        files: digest of every file except the manifest, its signature, and the products of the
            device.
    """

    format: Literal[1] = 1
    adadm: str
    source_sha256: str
    target_name: str = key("target")
    precision: str
    tensorrt: str | None
    quantization: Mapping[str, Any] | None
    models: Mapping[str, str]
    engines: Mapping[str, str]
    shapes: Mapping[str, tuple[Mapping[str, ShapeRange], ...]] = key("profiles")
    workspace_bytes: int | None
    factors_patch: str | None
    factor_tolerance: float
    references: tuple[ReferenceCase, ...]
    files: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Bundle(BundleManifest):
    """A folder with its manifest.

    Attributes:
        sha256: digest of the manifest itself.
    """

    folder: Path
    sha256: str

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Read the manifest and check it against itself.

        Raises:
            EngineError: the manifest is missing or of another format, names a file outside the
                folder or without a digest, or its parts contradict each other.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise EngineError(f"{path} is missing; expected a folder made by `adadm bundle`")
        manifest = read(BundleManifest, path, error=EngineError, advice=_AGAIN)
        bundle = cls(folder=Path(folder), sha256=sha256_of(path), **vars(manifest))
        if (problem := bundle._problem()) is not None:
            raise Source(path, EngineError, _AGAIN).refused(problem)
        return bundle

    @property
    def target(self) -> Target:
        """Target of the bundle."""
        return TARGETS[self.target_name]

    @property
    def profiles(self) -> Mapping[str, Profiles]:
        """Optimization profiles of the engines, by variant."""
        return {
            variant: tuple({name: Profile(*astuple(s)) for name, s in p.items()} for p in profiles)
            for variant, profiles in self.shapes.items()
        }

    def path(self, name: str) -> Path:
        """Path of a file of the bundle."""
        return self.folder / name

    @property
    def read_files(self) -> list[Path]:
        """Files that are read: all shipped ones, and the built engines with their manifests."""
        engines = [self.path(engine) for engine in self.engines.values()]
        built = [*engines, *map(manifest_path, engines)]
        return [*map(self.path, (MANIFEST, SIGNATURE, *self.files)), *built]

    def damaged_files(self) -> list[str]:
        """Names of shipped files that are missing, unreadable or changed, by digest."""
        return sorted(name for name, digest in self.files.items() if self.digest(name) != digest)

    def changed_files(self) -> list[str]:
        """Names of damaged files, and of engines that were built from another model."""
        changed = self.damaged_files()
        for variant, engine in self.engines.items():
            with suppress(EngineError):  # opening the engine reports the error
                built_from = read_manifest(self.path(engine)).model_sha256
                if built_from != self.files[self.models[variant]]:
                    changed.append(engine)
        return sorted(changed)

    def unlisted_files(self) -> list[str]:
        """Names, as shown, of files that are neither shipped nor made by the scripts of the bundle.

        A link to a folder is one of them, with a slash at the end.
        """
        suffixes = ("", ".json", ".plan", ".log")
        engines = [f"{engine}{suffix}" for engine in self.engines.values() for suffix in suffixes]
        known = {MANIFEST, SIGNATURE, *self.files, *engines}
        found = []
        for top, folders, files in os.walk(self.folder):
            links = [f"{name}/" for name in folders if os.path.islink(os.path.join(top, name))]
            for path in (os.path.join(top, name) for name in (*files, *links)):
                name = os.path.relpath(path, self.folder) + "/" * path.endswith("/")
                if name not in known and not any(fnmatchcase(name, one) for one in _PRODUCTS):
                    found.append(shown(name))
        return sorted(found)

    def digest(self, name: str) -> str | None:
        """Current SHA-256 of a file; None if it cannot be read."""
        with suppress(OSError):
            return sha256_of(self.path(name))
        return None

    def arrays(self, reference: ReferenceCase, more: Iterable[str] = ()) -> dict[str, FloatArray]:
        """Inputs and outputs of a reference, by name.

        Args:
            more: further names that are required.

        Raises:
            EngineError: the file is missing or damaged, lacks an array, or an input's shape differs
                from the manifest.
        """
        path = self.path(reference.file)
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # before numpy parses it
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged} is damaged")
            with np.load(path, allow_pickle=False) as content:
                arrays = dict(content)
            for name, array in arrays.items():
                if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
                    raise ValueError(f"{name} is not an array of numbers")
        except Exception as error:  # zipfile, zlib and numpy share no narrower base
            raise EngineError(f"{path} cannot be read: {error}; copy the bundle again") from error
        if missing := sorted({*reference.inputs, *reference.psnr_db, *more} - arrays.keys()):
            raise EngineError(f"{path}: expected {', '.join(missing)} too, got {', '.join(arrays)}")
        for name, shape in reference.inputs.items():
            if arrays[name].shape != shape:
                raise EngineError(f"{path}: {name}: expected {shape}, got {arrays[name].shape}")
        return arrays

    def _has_inside(self, name: str) -> bool:
        with suppress(ValueError):
            path_inside(self.folder, name)
            return True
        return False

    def _problem(self) -> str | None:
        """First contradiction within a manifest of the right types; None without one."""
        if self.target_name not in TARGETS:
            return f"target: expected one of {', '.join(TARGETS)}, got {self.target_name!r}"
        variants = set(self.models)
        if "whole" not in variants:
            return f"models: expected whole among them, got {sorted(variants)}"
        for name, found in (
            ("engines", set(self.engines)),
            ("profiles", set(self.shapes)),
            ("references", {reference.variant for reference in self.references}),
        ):
            if found != variants:
                return (
                    f"{name}: expected the forms of the models, {sorted(variants)}, got "
                    f"{sorted(found)}"
                )
        ranges = [found for p in self.shapes.values() for shapes in p for found in shapes.values()]
        sizes = [size for found in ranges for shape in astuple(found) for size in shape]
        if min([*sizes, 1 if self.workspace_bytes is None else self.workspace_bytes]) < 1:
            return "expected sizes of profiles and workspace_bytes of 1 or more, got less"
        for reference in self.references:
            lr = reference.inputs.get("lr", ())
            if (
                len(lr) != 4
                or min(size for shape in reference.inputs.values() for size in shape) < 1
            ):
                return f"reference {reference.name}: expected an input lr of 4 sizes, got {lr}"
        shipped = {*self.models.values(), *(reference.file for reference in self.references)}
        shipped |= {self.factors_patch} if self.factors_patch is not None else set()
        named = (*shipped, *self.engines.values(), *self.files)
        if outside := [name for name in named if not self._has_inside(name)]:
            return f"expected files of the bundle, got {outside[0]!r}"
        if missing := sorted(shipped - self.files.keys()):
            return f"files: expected a digest of {', '.join(missing)}, got none"
        engines = list(self.engines.values())
        products = [f"{engine}{suffix}" for engine in engines for suffix in ("", ".json", ".plan")]
        written = [real_path(self.path(name)) for name in products]
        read = {real_path(self.path(name)) for name in (MANIFEST, *self.files)}
        if len(set(written)) < len(written) or not read.isdisjoint(written):
            return f"engines: expected names of their own, got {', '.join(engines)}"
        return None


def could_be_imported(name: str) -> bool:
    """True if Python takes one of `unlisted_files` for a module, were its folder on the path."""
    return name.endswith(_IMPORTABLE)


def record(
    folder: Path,
    name: str,
    variant: str,
    *,
    inputs: Mapping[str, FloatArray],
    outputs: Mapping[str, FloatArray],
    psnr_db: Mapping[str, float],
) -> ReferenceCase:
    """Write the arrays of a case for `Bundle.arrays`, and return its row of the manifest.

    Each array except the factors is written raw too, for trtexec and for comparisons without numpy.

    Args:
        folder: folder of the bundle.
    """
    stem = folder / "reference" / f"{variant}.{name}"
    stem.parent.mkdir(exist_ok=True)
    arrays: dict[str, Any] = {**inputs, **outputs}
    np.savez_compressed(f"{stem}.npz", **arrays)
    for array_name, array in arrays.items():
        if not array_name.startswith("factor_"):
            Path(f"{stem}.{array_name}.bin").write_bytes(array.tobytes())
    return ReferenceCase(
        name=name,
        variant=variant,
        file=f"reference/{variant}.{name}.npz",
        inputs={key: array.shape for key, array in inputs.items()},
        psnr_db=psnr_db,
    )
