"""A model on ONNX Runtime, and a small picture through `Upscaler`."""

from __future__ import annotations

from functools import partial

from fuzz.models import mutate_case, seed_models
from fuzz.pictures import upscale
from fuzz.reader import Reader

READER = Reader(seed_models, mutate_case, partial(upscale, "cpu"))
