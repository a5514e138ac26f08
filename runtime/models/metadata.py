"""What a model says of itself: the keys `adadm.*` in the metadata of an ONNX file.

How a key is called and written is known here alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

from adadm.runtime.errors import EngineError
from adadm.runtime.json_format import Source, convert, parse_json
from adadm.runtime.targets import Precision

_PREFIX = "adadm."

NETWORK = ("upscale", "rgb_range", "smallest_area", "architecture")
"""What must be known of a network to run it and to compare it with another."""


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """The metadata of an ONNX model, or of an engine that was built of it.

    The key of a field is its name after `adadm.`, and its value is text: numbers in decimal, lists
    and mappings as JSON. A field is None where its key is absent, as all are in a model of another
    tool. The models for tiles have the keys of the whole one; only `stats` differs, and
    `channel_maps` is absent.

    Attributes:
        version: of the adadm-deploy that exported the model. Only ours have it.
        fold: `exact`, or `off` where batch normalization was kept. As all up to `stats`, written by
            every export, also where `adadm quantize` exports before it lowers.
        tail: `collapsed` to one convolution at low resolution, or `original`.
        io: `float32` (N, 3, H, W) in 0..rgb_range, or `uint8` images (N, H, W, 3). In and out.
        batch_normalizations: what the fold did with each: `node`; `form`, null where it was kept;
            `reason` for which it was. Empty with `fold` off.
        receptive_field: px of `lr` beyond which no input pixel changes an output pixel, but by the
            statistics of modulators; `image` where there is no bound.
        architecture: edsr, rdn, nlsn, or the name of a network of one's own.
        upscale: the factor from the sides of `lr` to those of `sr`, a whole number.
        rgb_range: the value of white, such as 255 or 1.
        smallest_area: the least H*W of an input, px. Readers take 1 where it is absent.
        hyperparameters: by name the `value`, and the `source` that `export.checkpoint` has it from.
        checkpoint_sha256: of the checkpoint's file, in hexadecimal.
        limits: by the name of each modulator, the std of its trunk, as the network was trained, up
            to which its factor follows it. Absent where there are none.
        stats: `internal` of a model for whole images; of the two for tiles `external` (reads the
            std of each trunk) and `moments` (returns what they are computed from).
        memory: by backend, fixed bytes and bytes for each pixel of `lr`. By `adadm export`, which
            measures it; not in a lowered model.
        halo_errors: pairs of an overlap of tiles in px and the largest error on photographs in grey
            levels of 255. By `adadm export --stats external`, unless the size is fixed.
        float32_layers: nodes that must stay float32 where the builder of an engine chooses. By
            `adadm quantize` for a target of weak types.
        quantization: how `adadm quantize` lowered the model: `precision` (fp16 or int8); `target`;
            `images_sha256` of the calibration images; `budget_db` of PSNR-Y; `int8`, the names of
            the convolutions that are; `factor_scales`, by what each modulation factor was
            multiplied, in graph order, or empty. Absent in a float32 export.
        channel_maps: by the name of a value, `[scale, offset]`, each one number or a list of one a
            channel: it holds `scale * x + offset` of the tensor x of the network as it was trained
            (`export.graph.channel_maps`). Absent where nothing is known; empty where none changed.
        others: the keys of other tools, and of later versions of this one, as they are.
    """

    version: str | None = None
    fold: str | None = None
    tail: str | None = None
    io: str | None = None
    batch_normalizations: list[dict[str, Any]] | None = None
    receptive_field: str | None = None
    architecture: str | None = None
    upscale: int | None = None
    rgb_range: float | None = None
    smallest_area: int | None = None
    hyperparameters: dict[str, dict[str, Any]] | None = None
    checkpoint_sha256: str | None = None
    limits: dict[str, float] | None = None
    stats: str | None = None
    memory: dict[str, tuple[int, int]] | None = None
    halo_errors: list[tuple[int, float]] | None = None
    float32_layers: list[str] | None = None
    quantization: dict[str, Any] | None = None
    channel_maps: dict[str, Any] | None = None
    others: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_props(cls, props: Mapping[str, str], model: object = "the model") -> ModelMetadata:
        """Read metadata as a file has it.

        Args:
            model: its path, for messages.

        Raises:
            EngineError: a value is not what its field is annotated with.
        """
        names = {key: key.removeprefix(_PREFIX) for key in props if key in _KEYS}
        content: dict[str, Any] = {name: _value(name, props[key]) for key, name in names.items()}
        content["others"] = {key: text for key, text in props.items() if key not in names}
        source = Source(Path(f"{model}: metadata"), EngineError, "export it again")
        return convert(content, cls, source)

    def to_props(self) -> dict[str, str]:
        """The inverse of `from_props`, in the order of the fields."""
        texts = {key: self._text(key.removeprefix(_PREFIX)) for key in _KEYS}
        return {**{key: text for key, text in texts.items() if text is not None}, **self.others}

    def _text(self, name: str) -> str | None:
        value = getattr(self, name)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, float):
            return f"{value:g}"
        return json.dumps(value, separators=(",", ":") if name == "channel_maps" else None)

    def missing(self, *names: str) -> list[str]:
        """The keys of these fields that are absent."""
        return [f"{_PREFIX}{name}" for name in names if getattr(self, name) is None]

    @property
    def network(self) -> NetworkMetadata:
        """The same, of a model that says what its network is.

        Raises:
            EngineError: it does not.
        """
        if missing := self.missing(*NETWORK):
            raise EngineError(
                f"the model was not made by adadm export: its metadata lacks {', '.join(missing)}"
            )
        return NetworkMetadata(**vars(self))

    @property
    def reach(self) -> int | None:
        """The receptive field, px; None where it has no bound, or is unknown."""
        return None if self.receptive_field in (None, "image") else int(self.receptive_field)

    @property
    def is_uint8(self) -> bool:
        """Whether the model reads and returns images of 8 bits."""
        return self.io == "uint8"

    @property
    def precision(self) -> Precision:
        """What the model was lowered to; float32 where it was not."""
        return cast(Precision, (self.quantization or {}).get("precision", "float32"))

    @property
    def target(self) -> str | None:
        """What the model was lowered for."""
        return (self.quantization or {}).get("target")

    @property
    def factor_scales(self) -> list[float]:
        """By what lowering multiplied each modulation factor; empty where it did not."""
        return list((self.quantization or {}).get("factor_scales", ()))

    def contradictions(self, other: ModelMetadata, *names: str) -> list[str]:
        """The fields of which both say something, and not the same: `upscale 2, not 4`."""
        texts = [(name, self._text(name), other._text(name)) for name in names]
        return [
            f"{name} {one}, not {two}" for name, one, two in texts if one and two and one != two
        ]

    def difference(self, whole: ModelMetadata) -> str:
        """Why a model for tiles does not belong to the whole one; empty where it does."""
        if self.checkpoint_sha256 != whole.checkpoint_sha256:
            return "was exported from another checkpoint"
        if self.quantization != whole.quantization:
            return "was lowered differently, or not at all,"
        return ""


@dataclass(frozen=True, kw_only=True)
class NetworkMetadata(ModelMetadata):
    """The metadata of a model whose network is known: nothing of `NETWORK` is absent."""

    upscale: int
    rgb_range: float
    smallest_area: int
    architecture: str


_HINTS = get_type_hints(ModelMetadata)
_KEYS = [f"{_PREFIX}{part.name}" for part in fields(ModelMetadata) if part.name != "others"]


def _value(name: str, text: str) -> Any:
    """A text, or what it is as JSON; what is none is left to be refused."""
    with suppress(ValueError):
        return text if str in get_args(_HINTS[name]) else parse_json(text)
    return text
