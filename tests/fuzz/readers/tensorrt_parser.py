"""A model in TensorRT's parser, as before a build."""

from __future__ import annotations

from pathlib import Path

from adadm.runtime.engines.tensorrt_api import parse
from fuzz.models import mutate_case, seed_models
from fuzz.reader import Files, Reader

_FORMS = ("whole", "inlined", "tiles", "images", "fp16", "int8", "weak")


def _seeds() -> dict[str, Files]:
    models = seed_models()
    return {form: models[form] for form in _FORMS}


def _read(folder: Path, _: Files) -> None:
    for path in sorted(folder.glob("*.onnx")):
        parse(path.read_bytes(), "rtx")


READER = Reader(_seeds, mutate_case, _read)
