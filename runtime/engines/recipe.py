"""What an engine is made from: a model in the form of a target, sizes, settings of the builder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, TypeVar

from adadm.runtime.engines.tensorrt_api import Flavour, Profile, Profiles, Settings, Shape
from adadm.runtime.engines.weak_typing import WeakTyping
from adadm.runtime.errors import EngineError
from adadm.runtime.models.onnx_reader import OnnxFile
from adadm.runtime.models.tensor_spec import TensorSpec
from adadm.runtime.targets import TARGETS, Precision, Target

BatchHeightWidth = tuple[int, int, int]
_Length = TypeVar("_Length", bound=int | str | None)

_USUAL: BatchHeightWidth = (1, 256, 256)
_AROUND = (3, 5, 4)  # from 3/4 to 5/4 of the usual size


@dataclass(frozen=True)
class Bounds:
    """N, H and W: the least, the usual and the largest that an engine takes."""

    minimum: BatchHeightWidth
    optimum: BatchHeightWidth
    maximum: BatchHeightWidth


@dataclass(frozen=True)
class Recipe:
    """All that an engine is made from.

    Attributes:
        profiles: empty for a model of one size.
        settings: of the builder.
    """

    model: OnnxFile
    target: Target
    profiles: Profiles
    settings: Settings

    @property
    def flavour(self) -> Flavour:
        return "rtx" if self.target.is_rtx else "tensorrt"

    @property
    def quantization(self) -> dict[str, Any] | None:
        """What `adadm quantize` noted; None for a float32 export."""
        return self.model.metadata.quantization

    @property
    def usual_shapes(self) -> dict[str, Shape]:
        """Of each input, for the first profile; empty for a model of one size."""
        usual = self.profiles[0] if self.profiles else {}
        return {name: shape.optimum for name, shape in usual.items()}

    @property
    def first_bounds(self) -> Bounds:
        """N, H and W of the first profile, or the one size that there is."""
        if self.profiles:
            return Bounds(*map(_size, astuple(self.profiles[0]["lr"])))
        (shape,) = (spec.shape for spec in self.model.inputs if spec.name == "lr")
        fixed = _size(tuple(length for length in shape if isinstance(length, int)))
        return Bounds(fixed, fixed, fixed)

    @property
    def precision(self) -> Precision:
        return self.model.metadata.precision


def default_bounds(optimum: BatchHeightWidth = _USUAL) -> Bounds:
    """A small range around what will be run: memory follows the largest shape."""
    batch, height, width = optimum
    low, high, whole = _AROUND
    return Bounds(
        (batch, max(height * low // whole, 1), max(width * low // whole, 1)),
        optimum,
        (batch, -(-height * high // whole), -(-width * high // whole)),
    )


def profiles_of(inputs: Sequence[TensorSpec], bounds: Sequence[Bounds]) -> list[dict[str, Profile]]:
    """A profile for each of the bounds, by default one; none for inputs of fixed sizes.

    Raises:
        EngineError: the bounds are in no order, or there are sizes that they do not set.
    """
    lr = next((spec for spec in inputs if spec.name == "lr"), None)
    if lr is None or len(lr.shape) != 4:
        listed = ", ".join(f"{spec.name} {spec.shape}" for spec in inputs)
        raise EngineError(f"the model reads {listed}, expected lr of four dimensions")
    if all(isinstance(size, int) for spec in inputs for size in spec.shape):
        fixed = _size(lr.shape)
        if others := {size for bound in bounds for size in astuple(bound)} - {fixed}:
            raise EngineError(
                f"the model takes {fixed} (N, H, W) alone, asked was {sorted(others)[0]}: leave "
                "the sizes out, or export it without --static"
            )
        return []
    bounds = bounds or [default_bounds()]

    def shape(spec: TensorSpec, size: BatchHeightWidth) -> tuple[int, ...]:
        sizes = dict(zip(_size(lr.shape), size, strict=True))
        for fixed, wanted in sizes.items():
            if isinstance(fixed, int) and fixed != wanted:
                raise EngineError(f"lr is {lr.shape}, and {wanted} is asked in place of {fixed}")
        if unknown := [s for s in spec.shape if not isinstance(s, int) and s not in sizes]:
            raise EngineError(f"{spec.name} is {spec.shape}: nothing says what {unknown[0]} is")
        return tuple(s if isinstance(s, int) else sizes[s] for s in spec.shape)

    for sizes in map(astuple, bounds):
        if not all(1 <= low <= usual <= high for low, usual, high in zip(*sizes, strict=True)):
            raise EngineError(
                f"the sizes {', '.join(map(str, sizes))} (N, H, W) are in no order: min, opt and "
                "max, each no larger than the next"
            )
    return [
        {s.name: Profile(*(shape(s, size) for size in astuple(bound))) for s in inputs}
        for bound in bounds
    ]


def _size(shape: tuple[_Length, ...]) -> tuple[_Length, _Length, _Length]:
    """N, H and W of `lr`: an image (N, H, W, 3), or (N, 3, H, W)."""
    batch, *rest = shape
    height, width = rest[:2] if rest[-1] == 3 else rest[1:]
    return batch, height, width


def make_recipe(
    model: OnnxFile,
    target: Target,
    bounds: Sequence[Bounds],
    compute_capabilities: Sequence[str] = (),
    workspace_bytes: int | None = None,
) -> Recipe:
    """Check that a model has the form of a target, and say how its engine is built.

    Raises:
        EngineError: it has another form, or the target has no engines.
    """
    if target.tensorrt is None:
        raise EngineError(f"{target.name} has no engines: it runs the ONNX model itself")
    if compute_capabilities and not target.is_rtx:
        raise EngineError(
            f"{target.name} builds for the GPU that is present; only tensorrt-rtx can be told "
            "another compute capability"
        )
    profiles = profiles_of(model.inputs, bounds)
    _check_form(model, target)
    weak = WeakTyping.of_model(model.metadata) if target.is_weakly_typed else None
    settings = Settings(tuple(compute_capabilities), weak, workspace_bytes)
    return Recipe(model, target, profiles, settings)


def _check_form(model: OnnxFile, target: Target) -> None:
    check_lowered(model, target)
    problems = []
    if model.opset > target.opset:
        problems.append(f"it has opset {model.opset}, at most {target.opset} is understood")
    if model.has_functions and not target.functions:
        problems.append("its modulators are functions, which are not understood")
    if problems:
        raise EngineError(
            f"{model.path} does not fit {target.name}: {'; '.join(problems)}. Export it with "
            f"--opset {target.opset}{'' if target.functions else ' --modulator inline'}, or let "
            "adadm bundle bring it into that form"
        )


def check_lowered(model: OnnxFile, target: Target) -> None:
    """Refuse a model that `adadm quantize` made for targets of another form.

    Raises:
        EngineError: it did.
    """
    made_for = TARGETS.get(model.metadata.target or "")
    if made_for and made_for.form != target.form:
        raise EngineError(
            f"{model.path} was lowered for {made_for.name} ({_named(made_for)}), {target.name} "
            f"reads another form ({_named(target)}): adadm quantize --target {target.name}"
        )


def _named(target: Target) -> str:
    return f"{target.typing} types, opset {target.opset}"
