"""What a model says of itself: the keys `adadm.*` in the metadata of an ONNX file.

How a key is called and written is known here alone.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, fields
from typing import Any, Literal, NamedTuple, cast

from adadm.runtime.errors import EngineError
from adadm.runtime.targets import Precision

__all__ = ["NETWORK", "MemoryModel", "ModelMetadata", "NetworkMetadata"]

_PREFIX = "adadm."

NETWORK = ("upscale", "rgb_range", "smallest_area", "architecture")
"""What must be known of a network to run it and to compare it with another."""


@dataclass(frozen=True)
class MemoryModel:
    """The peak of a session on one backend, above what the process takes without it.

    Attributes:
        fixed_bytes: the loaded model.
        bytes_per_pixel: of `lr`; all tensors of an inference, the output in float32 too.
    """

    fixed_bytes: int
    bytes_per_pixel: int

    def bytes_for(self, pixels: int) -> int:
        """The peak for an input of so many pixels."""
        return self.fixed_bytes + self.bytes_per_pixel * pixels


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
    receptive_field: int | Literal["image"] | None = None
    architecture: str | None = None
    upscale: int | None = None
    rgb_range: float | None = None
    smallest_area: int | None = None
    hyperparameters: dict[str, dict[str, Any]] | None = None
    checkpoint_sha256: str | None = None
    stats: str | None = None
    memory: dict[str, MemoryModel] | None = None
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
            EngineError: a value is not what its key needs.
        """
        found: dict[str, Any] = {}
        others = {}
        for key, text in props.items():
            if key not in _KEYS:
                others[key] = text
                continue
            written = _FORMATS.get(_KEYS[key], _TEXT)
            try:
                found[_KEYS[key]] = written.read(text)
            except (AttributeError, TypeError, ValueError) as error:
                raise EngineError(
                    f"{model} has {reprlib.repr(text)} as its metadata {key}, expected "
                    f"{written.expected}; export it again"
                ) from error
        return cls(**found, others=others)

    def to_props(self) -> dict[str, str]:
        """The inverse of `from_props`, in the order in which export writes the keys."""
        texts = {key: _text(self, name) for key, name in _KEYS.items()}
        return {**{key: text for key, text in texts.items() if text is not None}, **self.others}

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
        texts = [(name, *(_text(side, name) for side in (self, other))) for name in names]
        return [
            f"{name} {one}, not {another}"
            for name, one, another in texts
            if one and another and one != another
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


class _Format(NamedTuple):
    """How a field is written."""

    read: Callable[[str], Any]
    write: Callable[[Any], str]
    expected: str


def _json(
    kind: type[list[Any]] | type[dict[str, Any]],
    *,
    sort_keys: bool = False,
    separators: tuple[str, str] | None = None,
) -> _Format:
    def read(text: str) -> Any:
        content = json.loads(text)
        if not isinstance(content, kind):
            raise TypeError
        return content

    def write(content: Any) -> str:
        return json.dumps(content, sort_keys=sort_keys, separators=separators)

    return _Format(read, write, f"JSON, a {'list' if kind is list else 'mapping'}")


_TEXT = _Format(str, str, "text")
_WHOLE = _Format(int, str, "a whole number")
_MEMORY, _PAIRS = _json(dict), _json(list)
_FORMATS = {
    "batch_normalizations": _json(list),
    "receptive_field": _Format(
        lambda text: text if text == "image" else int(text), str, "a whole number, or image"
    ),
    "upscale": _WHOLE,
    "rgb_range": _Format(float, "{:g}".format, "a number"),
    "smallest_area": _WHOLE,
    "hyperparameters": _json(dict, sort_keys=True),
    "memory": _Format(
        lambda text: {name: MemoryModel(*model) for name, model in _MEMORY.read(text).items()},
        lambda models: json.dumps({name: astuple(model) for name, model in models.items()}),
        "JSON, two numbers for each backend",
    ),
    "halo_errors": _Format(
        lambda text: [(int(px), float(levels)) for px, levels in _PAIRS.read(text)],
        json.dumps,
        "JSON, a list of pairs of numbers",
    ),
    "float32_layers": _json(list),
    "quantization": _json(dict, sort_keys=True),
    "channel_maps": _json(dict, separators=(",", ":")),
}


def _text(metadata: ModelMetadata, name: str) -> str | None:
    value = getattr(metadata, name)
    return None if value is None else _FORMATS.get(name, _TEXT).write(value)


_KEYS = {
    f"{_PREFIX}{entry.name}": entry.name
    for entry in fields(ModelMetadata)
    if entry.name != "others"
}
