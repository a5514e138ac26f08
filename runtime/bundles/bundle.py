"""A bundle: a folder for a device without network, and the manifest of what is in it.

The digests find damage and mix-ups. They are no signature: who writes the folder writes them too.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import reprlib
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from adadm.runtime.engines.manifest import manifest_path, read_manifest
from adadm.runtime.engines.tensorrt_api import Profile, Shape
from adadm.runtime.errors import EngineError
from adadm.runtime.files import path_inside, sha256_of
from adadm.runtime.sessions.session import FloatArray
from adadm.runtime.targets import TARGETS, Target

__all__ = ["MANIFEST", "Bundle", "ReferenceCase"]

MANIFEST = "MANIFEST.json"
_FORMAT = 1
_AGAIN = "make the bundle again with `adadm bundle`"

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class ReferenceCase:
    """Inputs, and what a form of the model makes of them.

    Attributes:
        form: `whole`, `tile` or `moments`.
        file: an .npz of each input and output by name; for the form `whole` of each factor too.
        inputs: their shapes.
        psnr_db: what each output has to reach, against the reference's own peak.
    """

    name: str
    form: str
    file: str
    inputs: Mapping[str, Shape]
    psnr_db: Mapping[str, float]


@dataclass(frozen=True)
class Bundle:
    """What the manifest says. Files are named relative to the folder.

    Attributes:
        sha256: of the manifest itself.
        adadm: the version that made the bundle.
        source_sha256: of the model that it was made from, before that was brought into its form.
        tensorrt: the version that the target has.
        models, engines, profiles: by form, of which `whole` is always there.
        workspace_bytes: what the builder may take for scratch; None leaves it to TensorRT.
        factors_patch: bytes that, after those of the model, make one that outputs `factor_0`,
            `factor_1`, ... too, as protobuf merges messages that follow each other; None for a
            model without modulators.
        factor_tolerance: how far a factor may be off, relative to the largest of its block.
        references: one of each form at least.
        files: the digest of every file but the manifest and what the device makes.
    """

    folder: Path
    sha256: str
    adadm: str
    source_sha256: str
    target: Target
    precision: str
    tensorrt: str | None
    models: Mapping[str, str]
    engines: Mapping[str, str]
    profiles: Mapping[str, tuple[dict[str, Profile], ...]]
    workspace_bytes: int | None
    factors_patch: str | None
    factor_tolerance: float
    references: tuple[ReferenceCase, ...]
    files: Mapping[str, str]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Read the manifest and check it against itself.

        Raises:
            EngineError: it is missing, no JSON, of another format, lacks a field or has one of a
                wrong type, names a file outside the folder or one without a digest, or its parts
                do not fit each other.
        """
        path = Path(folder) / MANIFEST
        try:
            content = path.read_bytes()
            fields = json.loads(content)
        except OSError as error:
            raise EngineError(
                f"{path} cannot be read: {error.strerror}; expected the folder that "
                "`adadm bundle` made"
            ) from error
        except (ValueError, RecursionError) as error:
            raise EngineError(f"{path} is not JSON: {error}; {_AGAIN}") from error
        found = fields.get("format") if isinstance(fields, dict) else None
        if type(found) is not int or found != _FORMAT:  # True is 1
            raise EngineError(f"{path}: format is {found!r}, expected {_FORMAT}; {_AGAIN}")
        file = _file_in(Path(folder))
        files, of_form = _by_name(file), "files of the bundle by form"
        field = partial(_field, path, fields)
        bundle = cls(
            folder=Path(folder),
            sha256=hashlib.sha256(content).hexdigest(),
            adadm=field("adadm", _text, "a text"),
            source_sha256=field("source_sha256", _text, "a text"),
            target=field("target", _target, f"one of {', '.join(TARGETS)}"),
            precision=field("precision", _text, "a text"),
            tensorrt=field("tensorrt", _or_none(_text), "a text or null"),
            models=field("models", files, of_form),
            engines=field("engines", files, of_form),
            profiles=field("profiles", _by_name(_list_of(_by_name(_profile))), "shapes by form"),
            workspace_bytes=field("workspace_bytes", _or_none(_count), "a number or null"),
            factors_patch=field("factors_patch", _or_none(file), "a file of the bundle or null"),
            factor_tolerance=field("factor_tolerance", _number, "a number"),
            references=field("references", _list_of(_reference(path, file)), "a list"),
            files=field("files", _by_name(_text, file), "digests by file of the bundle"),
        )
        bundle._check(path)
        return bundle

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
        for form, engine in self.engines.items():
            with suppress(EngineError):  # opening the engine says what is wrong
                built_from = read_manifest(self.path(engine)).model_sha256
                if built_from != self.files[self.models[form]]:
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

    def _check(self, path: Path) -> None:
        """Whether the parts of the manifest fit each other."""
        forms = set(self.models)
        if "whole" not in forms:
            raise EngineError(f"{path}: models are {sorted(forms)}, without whole; {_AGAIN}")
        for name, found in (
            ("engines", set(self.engines)),
            ("profiles", set(self.profiles)),
            ("references", {reference.form for reference in self.references}),
        ):
            if found != forms:
                raise EngineError(
                    f"{path}: {name} are of the forms {sorted(found)}, expected those of the "
                    f"models, {sorted(forms)}; {_AGAIN}"
                )
        shipped = {*self.models.values(), *(reference.file for reference in self.references)}
        shipped |= {self.factors_patch} if self.factors_patch else set()
        if missing := sorted(shipped - self.files.keys()):
            raise EngineError(f"{path}: files has no digest of {', '.join(missing)}; {_AGAIN}")
        written = [
            self.path(f"{engine}{suffix}").resolve()
            for engine in self.engines.values()
            for suffix in ("", ".json", ".plan")
        ]
        read = {self.path(name).resolve() for name in (MANIFEST, *self.files)}
        if len(set(written)) < len(written) or not read.isdisjoint(written):
            listed = ", ".join(self.engines.values())
            raise EngineError(
                f"{path}: the engines are to be {listed}, expected names of their own; {_AGAIN}"
            )


def _field(
    where: object, fields: Any, name: str, convert: Callable[[Any], _Value], expected: str
) -> _Value:
    """A field, as `convert` makes it, which raises TypeError or ValueError where it cannot."""
    try:
        return convert(fields[name])
    except (KeyError, TypeError, ValueError) as error:
        there = isinstance(fields, dict) and name in fields
        found = reprlib.repr(fields[name]) if there else "missing"
        raise EngineError(f"{where}: {name} is {found}, expected {expected}; {_AGAIN}") from error


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _target(value: Any) -> Target:
    return TARGETS[_text(value)]


def _list_of(convert: Callable[[Any], _Value]) -> Callable[[Any], tuple[_Value, ...]]:
    def converted(value: Any) -> tuple[_Value, ...]:
        if type(value) is not list:
            raise TypeError
        return tuple(convert(entry) for entry in value)

    return converted


def _by_name(
    convert: Callable[[Any], _Value], name: Callable[[Any], str] = _text
) -> Callable[[Any], dict[str, _Value]]:
    def converted(value: Any) -> dict[str, _Value]:
        if type(value) is not dict:
            raise TypeError
        return {name(key): convert(entry) for key, entry in value.items()}

    return converted


def _or_none(convert: Callable[[Any], _Value]) -> Callable[[Any], _Value | None]:
    return lambda value: None if value is None else convert(value)


def _file_in(folder: Path) -> Callable[[Any], str]:
    """A name that stays in the folder, also where it leads through links."""

    def converted(value: Any) -> str:
        path_inside(folder, value)
        return str(value)

    return converted


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError
    return value


def _shape(value: Any) -> Shape:
    return _list_of(_count)(value)


def _profile(value: Any) -> Profile:
    return Profile(_shape(value["min"]), _shape(value["opt"]), _shape(value["max"]))


def _reference(path: Path, file: Callable[[Any], str]) -> Callable[[Any], ReferenceCase]:
    def converted(value: Any) -> ReferenceCase:
        name = _field(f"{path}: references", value, "name", _text, "a text")
        field = partial(_field, f"{path}: the reference {name}", value)
        return ReferenceCase(
            name=name,
            form=field("form", _text, "a text"),
            file=field("file", file, "a file of the bundle"),
            inputs=field("inputs", _by_name(_shape), "shapes by input"),
            psnr_db=field("psnr_db", _by_name(_number), "numbers by output"),
        )

    return converted
