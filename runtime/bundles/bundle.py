"""A bundle: a folder for a device without network, and the manifest of what is in it.

The digests find damage and mix-ups. They are no signature: who writes the folder writes them too.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from adadm.runtime.engines.manifest import manifest_path, read_manifest
from adadm.runtime.engines.tensorrt_api import Profile, Profiles, Shape
from adadm.runtime.errors import EngineError
from adadm.runtime.files import path_inside, sha256_of
from adadm.runtime.json_format import Source, key, read
from adadm.runtime.sessions.session import FloatArray
from adadm.runtime.targets import TARGETS, Target

MANIFEST = "MANIFEST.json"
_AGAIN = "make the bundle again with `adadm bundle`"


@dataclass(frozen=True, kw_only=True)
class ReferenceCase:
    """Inputs, and what a variant of the model makes of them.

    Attributes:
        variant: `whole`, `tile` or `moments`.
        file: an .npz of each input and output by name; of `whole` of each factor too.
        inputs: their shapes.
        psnr_db: what each output has to reach, against the reference's own peak.
    """

    name: str
    variant: str = key("form")
    file: str
    inputs: Mapping[str, Shape]
    psnr_db: Mapping[str, float]


@dataclass(frozen=True)
class ShapeRange:
    """A `Profile` of one input, as the manifest has it."""

    min: Shape
    opt: Shape
    max: Shape


@dataclass(frozen=True, kw_only=True)
class BundleManifest:
    """What MANIFEST.json says. Files are named relative to its folder.

    Attributes:
        adadm: the version that made the bundle.
        source_sha256: of the model that it was made from, before that was brought into its form.
        target_name: one of `TARGETS`.
        tensorrt: the version that the target has.
        quantization: what `adadm quantize` noted; None for a float32 export.
        models, engines, shapes: by variant, of which `whole` is always there.
        workspace_bytes: what the builder may take for scratch; None leaves it to TensorRT.
        factors_patch: bytes that, after those of the model, make one that outputs `factor_0`,
            `factor_1`, ... too, as protobuf merges messages that follow each other; None for a
            model without modulators.
        factor_tolerance: how far a factor may be off, relative to the largest of its block.
        references: one of each variant at least.
        files: the digest of every file but the manifest and what the device makes.
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
        sha256: of the manifest itself.
    """

    folder: Path
    sha256: str

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Read the manifest and check it against itself.

        Raises:
            EngineError: it is missing, no manifest of this format, names a file outside the folder
                or one without a digest, or its parts do not fit each other.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise EngineError(f"{path} is not there; expected the folder that `adadm bundle` made")
        manifest = read(BundleManifest, path, error=EngineError, advice=_AGAIN)
        bundle = cls(folder=Path(folder), sha256=sha256_of(path), **vars(manifest))
        if (problem := bundle._problem()) is not None:
            raise Source(path, EngineError, _AGAIN).refused(problem)
        return bundle

    @property
    def target(self) -> Target:
        """What the bundle is for."""
        return TARGETS[self.target_name]

    @property
    def profiles(self) -> Mapping[str, Profiles]:
        """How the engines are built, by variant."""
        return {
            variant: tuple({name: Profile(*astuple(s)) for name, s in p.items()} for p in profiles)
            for variant, profiles in self.shapes.items()
        }

    def path(self, name: str) -> Path:
        """Where a file of the bundle is."""
        return self.folder / name

    @property
    def read_files(self) -> list[Path]:
        """What is read of it: all that was shipped, and the engines that were built."""
        engines = [self.path(engine) for engine in self.engines.values()]
        built = [*engines, *map(manifest_path, engines)]
        return [self.path(MANIFEST), *map(self.path, self.files), *built]

    def damaged_files(self) -> list[str]:
        """What was shipped and is missing, unreadable or has another digest."""
        return sorted(name for name, digest in self.files.items() if self.digest(name) != digest)

    def changed_files(self) -> list[str]:
        """The damaged files, and engines whose manifest says that they are of another model."""
        changed = self.damaged_files()
        for variant, engine in self.engines.items():
            with suppress(EngineError):  # opening the engine says what is wrong
                built_from = read_manifest(self.path(engine)).model_sha256
                if built_from != self.files[self.models[variant]]:
                    changed.append(engine)
        return sorted(changed)

    def digest(self, name: str) -> str | None:
        """SHA-256 of a file as it is now; None where it cannot be read."""
        with suppress(OSError):
            return sha256_of(self.path(name))
        return None

    def arrays(self, reference: ReferenceCase, more: Iterable[str] = ()) -> dict[str, FloatArray]:
        """The inputs and outputs of a reference, by name.

        Args:
            more: names besides, which have to be there.

        Raises:
            EngineError: the file is missing or damaged, lacks an array, or has an input of another
                shape than the manifest says.
        """
        path = self.path(reference.file)
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # before numpy makes sense of it
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged} is damaged")
            with np.load(path, allow_pickle=False) as content:
                arrays = dict(content)
        except Exception as error:  # zipfile, zlib and numpy share no narrower base
            raise EngineError(
                f"{path} cannot be read: {error}; expected the .npz that was shipped: copy the "
                "bundle again"
            ) from error
        if missing := sorted({*reference.inputs, *reference.psnr_db, *more} - arrays.keys()):
            raise EngineError(f"{path} lacks {', '.join(missing)}; it has {', '.join(arrays)}")
        for name, shape in reference.inputs.items():
            if arrays[name].shape != shape:
                raise EngineError(f"{path}: {name} is {arrays[name].shape}, expected {shape}")
        return arrays

    def _has_inside(self, name: str) -> bool:
        with suppress(ValueError):
            path_inside(self.folder, name)
            return True
        return False

    def _problem(self) -> str | None:
        """What is wrong with the manifest by itself, if its parts are of the right types."""
        if self.target_name not in TARGETS:
            return f"target is {self.target_name!r}, expected one of {', '.join(TARGETS)}"
        variants = set(self.models)
        if "whole" not in variants:
            return f"models are {sorted(variants)}, without whole"
        for name, found in (
            ("engines", set(self.engines)),
            ("profiles", set(self.shapes)),
            ("references", {reference.variant for reference in self.references}),
        ):
            if found != variants:
                return (
                    f"{name} are of the forms {sorted(found)}, expected those of the models, "
                    f"{sorted(variants)}"
                )
        ranges = [found for p in self.shapes.values() for shapes in p for found in shapes.values()]
        sizes = [size for found in ranges for shape in astuple(found) for size in shape]
        if min([*sizes, 1 if self.workspace_bytes is None else self.workspace_bytes]) < 1:
            return "a size of profiles, or workspace_bytes, is below 1"
        shipped = {*self.models.values(), *(reference.file for reference in self.references)}
        shipped |= {self.factors_patch} if self.factors_patch is not None else set()
        named = (*shipped, *self.engines.values(), *self.files)
        if outside := [name for name in named if not self._has_inside(name)]:
            return f"{outside[0]!r} is named, expected files of the bundle"
        if missing := sorted(shipped - self.files.keys()):
            return f"files has no digest of {', '.join(missing)}"
        engines = list(self.engines.values())
        products = [f"{engine}{suffix}" for engine in engines for suffix in ("", ".json", ".plan")]
        written = [self.path(name).resolve() for name in products]
        read = {self.path(name).resolve() for name in (MANIFEST, *self.files)}
        if len(set(written)) < len(written) or not read.isdisjoint(written):
            return f"the engines are to be {', '.join(engines)}, expected names of their own"
        return None


def record(
    folder: Path,
    name: str,
    variant: str,
    *,
    inputs: Mapping[str, FloatArray],
    outputs: Mapping[str, FloatArray],
    psnr_db: Mapping[str, float],
) -> ReferenceCase:
    """Write what `Bundle.arrays` reads of a case, and its row of the manifest.

    Each array but the factors is written raw besides, as trtexec reads it and as its output is
    compared without numpy.

    Args:
        folder: of the bundle.
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
