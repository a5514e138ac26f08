"""Exact graph passes on onnx-ir, one a file; each class docstring is its specification."""

from __future__ import annotations

from adadm.export.passes.bake_image_io import BakeImageIO
from adadm.export.passes.expose_factors import ExposeFactors
from adadm.export.passes.externalize_statistics import ExternalizeStatistics
from adadm.export.passes.folding import Decision
from adadm.export.passes.inline_functions import InlineFunctions
from adadm.export.passes.pipelines import collapse_tail, fold_batch_norm
from adadm.export.passes.return_moments import ReturnMoments

__all__ = [
    "BakeImageIO",
    "Decision",
    "ExposeFactors",
    "ExternalizeStatistics",
    "InlineFunctions",
    "ReturnMoments",
    "collapse_tail",
    "fold_batch_norm",
]
