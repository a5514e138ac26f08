"""Metadata of a model: the keys `adadm.*` of an ONNX file.

Only this module knows the names and formats of the keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, get_args, get_origin, get_type_hints

import numpy as np

from adadm.runtime.bounds import Fits, within
from adadm.runtime.errors import EngineError
from adadm.runtime.json_format import Source, convert, parse_json
from adadm.runtime.models.tensor_spec import Shape, TensorSpec
from adadm.runtime.targets import TARGETS, Precision

_PREFIX = "adadm."
_ADVICE = "export it again"
_LARGEST = 1e30  # float32 holds its inverse too

Pixels = Annotated[int, within(0, 2**31 - 1)]
Bytes = Annotated[int, within(0, 2**53)]
Stats = Literal["internal", "external", "moments"]
Origin = Literal["tensors", "flag", "file", "choice", "template"]
Positive = Annotated[float, within(1 / _LARGEST, _LARGEST)]


class BatchNormalizationNote(TypedDict):
    """Outcome of the fold of a batch normalization, as `export.passes.Decision`."""

    node: str
    form: str | None
    reason: str


class HyperparameterNote(TypedDict):
    """A hyper-parameter, and where `export.checkpoint` found it."""

    value: float
    source: Origin


class _Lowered(TypedDict):
    precision: Literal["fp16", "int8"]


class QuantizationNote(_Lowered, total=False):
    """How `adadm quantize` lowered a model.

    Attributes:
        precision: fp16 or int8.
        target: target that it was lowered for.
        images_sha256: digest of the calibration images.
        budget_db: required PSNR-Y, dB.
        int8: names of the INT8 convolutions.
        factor_scales: multiplier of each modulation factor in graph order, or empty.
    """

    target: Annotated[str, Fits(TARGETS.__contains__, "the name of a target")]
    images_sha256: str
    budget_db: float
    int8: list[str]
    factor_scales: list[Positive]


def _is_channel_map(value: Any) -> bool:
    """True for a scale and an offset, each a number or a list of numbers by channel."""
    if type(value) is not list or len(value) != 2:
        return False
    columns = [part if type(part) is list else [part] for part in value]
    lengths = {len(column) for column in columns} - {1}
    return len(lengths - {0}) == len(lengths) < 2 and all(
        type(number) in (int, float) and abs(number) <= _LARGEST
        for column in columns
        for number in column
    )


_Reach = Annotated[
    str, Fits(re.compile(r"image|[0-9]{1,9}").fullmatch, "image, or a distance in px")
]
_ChannelMap = Annotated[Any, Fits(_is_channel_map, "a scale and an offset, or lists by channel")]

RGB_RANGES = within(1e-6, 1e6)
"""Values of white that a network may have."""

NETWORK = ("upscale", "rgb_range", "smallest_area", "architecture")
"""Fields that are required to run a network and to compare it with another."""


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """Metadata of an ONNX model, or of an engine built from it.

    The key of a field is `adadm.` and its name. Its value is text: numbers in decimal, lists and
    mappings as JSON. A field is None if its key is absent, as all are in a model of another tool.
    The models for tiles have the keys of the whole one, except that `stats` differs and
    `channel_maps` is absent.

    Attributes:
        version: version of the adadm-deploy that exported the model.
        fold: `exact`, or `off` if batch normalization was kept. Every export writes this field and
            all others up to `stats`, also if `adadm quantize` exports before it lowers.
        tail: `collapsed` to one convolution at low resolution, or `original`.
        io: `float32` (N, 3, H, W) in 0..rgb_range, or `uint8` images (N, H, W, 3); input and
            output.
        batch_normalizations: outcome of the fold for each. Empty with `fold` off.
        receptive_field: largest distance in px of `lr` at which an input pixel changes an output
            pixel, apart from modulators' statistics; `image` if there is no bound.
        architecture: edsr, rdn, nlsn, or the name of a custom network.
        upscale: factor from the sides of `lr` to those of `sr`, an integer.
        rgb_range: value of white, such as 255 or 1.
        smallest_area: least H*W of an input, px; readers assume 1 if it is absent.
        hyperparameters: hyper-parameters by name.
        checkpoint_sha256: digest of the checkpoint's file, in hexadecimal.
        limits: by modulator, the std of its trunk, in the scale of training, up to which the factor
            follows the std. Absent if there are none.
        stats: `internal` for whole images; for tiles `external` (reads the std of each trunk) and
            `moments` (returns the moments that give the std).
        memory: by backend, fixed bytes and bytes per pixel of `lr`, measured by `adadm export`; not
            in a lowered model.
        halo_errors: pairs of an overlap of tiles in px and the largest error on photographs in grey
            levels of 255, from `adadm export --stats external`, unless the size is fixed.
        float32_layers: nodes that must stay float32 if the builder of an engine chooses types, from
            `adadm quantize` for a weakly typed target.
        quantization: how `adadm quantize` lowered the model. Absent in a float32 export.
        channel_maps: by value name `[scale, offset]`, each a number or a list by channel: the value
            holds `scale * x + offset` of the tensor x of the trained network
            (`export.graph.channel_maps`). Absent if unknown; empty if none changed.
        others: keys of other tools and of later versions, unchanged.
    """

    version: str | None = None
    fold: Literal["exact", "off"] | None = None
    tail: Literal["collapsed", "original"] | None = None
    io: Literal["float32", "uint8"] | None = None
    batch_normalizations: list[BatchNormalizationNote] | None = None
    receptive_field: _Reach | None = None
    architecture: str | None = None
    upscale: Annotated[int, within(1, 64)] | None = None
    rgb_range: Annotated[float, RGB_RANGES] | None = None
    smallest_area: Annotated[int, within(1, 2**31 - 1)] | None = None
    hyperparameters: dict[str, HyperparameterNote] | None = None
    checkpoint_sha256: str | None = None
    limits: dict[str, Positive] | None = None
    stats: Stats | None = None
    memory: dict[str, tuple[Bytes, Bytes]] | None = None
    halo_errors: list[tuple[Pixels, Annotated[float, within(0, _LARGEST)]]] | None = None
    float32_layers: list[str] | None = None
    quantization: QuantizationNote | None = None
    channel_maps: dict[str, _ChannelMap] | None = None
    others: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_props(cls, props: Mapping[str, str], model: object = "the model") -> ModelMetadata:
        """Parse the metadata of a file.

        Args:
            model: path of the model, for messages.

        Raises:
            EngineError: a value does not match the annotation of its field.
        """
        names = {key: key.removeprefix(_PREFIX) for key in props if key in _KEYS}
        content: dict[str, Any] = {name: _value(name, props[key]) for key, name in names.items()}
        content["others"] = {key: text for key, text in props.items() if key not in names}
        return convert(content, cls, Source(Path(f"{model}: metadata"), EngineError, _ADVICE))

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
        """Keys of those of the named fields that are absent."""
        return [f"{_PREFIX}{name}" for name in names if getattr(self, name) is None]

    @property
    def network(self) -> NetworkMetadata:
        """This metadata, if it describes its network.

        Raises:
            EngineError: a field of `NETWORK` is absent.
        """
        if missing := self.missing(*NETWORK):
            raise EngineError(
                f"the model's metadata lacks {', '.join(missing)}; export it with 'adadm export'"
            )
        return NetworkMetadata(**vars(self))

    @property
    def reach(self) -> int | None:
        """Receptive field, px; None if unbounded or unknown."""
        return None if self.receptive_field in (None, "image") else int(self.receptive_field)

    @property
    def is_uint8(self) -> bool:
        """True if the model reads and returns 8-bit images."""
        return self.io == "uint8"

    @property
    def precision(self) -> Precision:
        """Precision that the model was lowered to; float32 if it was not."""
        return self.quantization["precision"] if self.quantization else "float32"

    @property
    def target(self) -> str | None:
        """Name of the target that the model was lowered for; None if it was not."""
        return self.quantization.get("target") if self.quantization else None

    @property
    def factor_scales(self) -> list[float]:
        """Multiplier that lowering gave each modulation factor; empty without one."""
        return list(self.quantization.get("factor_scales", ())) if self.quantization else []

    def enlarged(self, shape: Shape) -> Shape:
        """Shape of `sr` for a shape of `lr`, such as `2*H` for H; None for what is not known."""
        first, factor = (1 if self.is_uint8 else 2), self.upscale

        def times(length: int | str | None) -> int | str | None:
            if factor is None or length is None:
                return None
            return length * factor if isinstance(length, int) else f"{factor}*{length}"

        return tuple(
            times(length) if axis in (first, first + 1) else length
            for axis, length in enumerate(shape)
        )

    def check_tensors(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], model: object
    ) -> None:
        """Compare the declared `lr` and `sr` of a model with its metadata.

        Args:
            model: path of the model, for messages.

        Raises:
            EngineError: the declared type or shape of `lr` or `sr` contradicts `io` or `upscale`.
        """
        lr = next((spec for spec in inputs if spec.name == "lr"), None)
        if lr is None or (self.io is None and self.upscale is None):
            return
        plain = (None, None, None, 3) if self.is_uint8 else (None, 3, None, None)
        expected = TensorSpec("lr", plain, np.dtype(self.io or lr.dtype))
        specs = [(lr, expected)]
        if len(lr.shape) == len(plain):
            enlarged = TensorSpec("sr", self.enlarged(lr.shape), expected.dtype)
            specs += [(spec, enlarged) for spec in outputs if spec.name == "sr"]
        for spec, wanted in specs:
            if not wanted.fits(spec.shape, spec.dtype):
                raise EngineError(
                    f"{model}: its metadata says io {self.io}, upscale {self.upscale}, so expected "
                    f"{wanted}, got {spec}; {_ADVICE}"
                )

    def contradictions(self, other: ModelMetadata, *names: str) -> list[str]:
        """Fields that are present in both and differ, such as `upscale 2, not 4`."""
        texts = [(name, self._text(name), other._text(name)) for name in names]
        return [
            f"{name} {one}, not {two}" for name, one, two in texts if one and two and one != two
        ]

    def difference(self, whole: ModelMetadata) -> str:
        """Reason why a model for tiles does not belong to the whole one; empty if it does."""
        if self.checkpoint_sha256 != whole.checkpoint_sha256:
            return "was exported from another checkpoint"
        if self.quantization != whole.quantization:
            return "was lowered differently, or not at all,"
        return ""


@dataclass(frozen=True, kw_only=True)
class NetworkMetadata(ModelMetadata):
    """Metadata of a model whose network is known: no field of `NETWORK` is absent."""

    upscale: int
    rgb_range: float
    smallest_area: int
    architecture: str


_HINTS = {name: get_args(hint)[0] for name, hint in get_type_hints(ModelMetadata).items()}
_KEYS = [f"{_PREFIX}{part.name}" for part in fields(ModelMetadata) if part.name != "others"]


def _value(name: str, text: str) -> Any:
    """A text, parsed as JSON if its field is not one; invalid JSON, and null, are refused later."""
    if _HINTS[name] is str or get_origin(_HINTS[name]) is Literal:
        return text
    parsed = None
    with suppress(ValueError):
        parsed = parse_json(text)
    return text if parsed is None else parsed
