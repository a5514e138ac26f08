"""An unfolded export as a source to lower, with and without its folds."""

from __future__ import annotations

from pathlib import Path

from adadm.calibration.source_network import load_source_network
from adadm.deployment.inspection.inspected_file import read_inspected_file
from adadm.export.assembly import assemble
from adadm.export.options import DEFAULTS
from fuzz.models import MODEL, mutate_case, seed_models
from fuzz.reader import Files, Reader


def _seeds() -> dict[str, Files]:
    models = seed_models()
    return {name: models[name] for name in ("unfolded", "unfolded-tail", "whole", "int8", "static")}


def _read(folder: Path, _: Files) -> None:
    path = folder / MODEL
    read_inspected_file(path)
    source = load_source_network(path)
    assemble(source.model.clone(), source.metadata, DEFAULTS)


READER = Reader(_seeds, mutate_case, _read)
