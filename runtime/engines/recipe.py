"""Inputs of an engine's build: a model in the form of a target, sizes, and builder settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TypeVar

from adadm.runtime.engines.tensorrt_api import Flavour, Profile, Profiles, Settings, Shape
from adadm.runtime.engines.weak_typing import WeakTyping
from adadm.runtime.errors import EngineError
from adadm.runtime.models.metadata import QuantizationNote
from adadm.runtime.models.onnx_reader import OnnxFile
from adadm.runtime.models.tensor_spec import TensorSpec
from adadm.runtime.targets import TARGETS, Precision, Target

BatchHeightWidth = tuple[int, int, int]
_Length = TypeVar("_Length", bound=int | str | None)

_USUAL: BatchHeightWidth = (1, 256, 256)
_AROUND = (3, 5, 4)  # 3/4 to 5/4 of the usual size


@dataclass(frozen=True)
class Bounds:
    """Least, usual and largest N, H and W of an engine."""

    minimum: BatchHeightWidth
    optimum: BatchHeightWidth
    maximum: BatchHeightWidth


@dataclass(frozen=True)
class Recipe:
    """All inputs of an engine's build.

    Attributes:
        profiles: optimization profiles; empty for a model of one size.
        settings: builder settings.
    """

    model: OnnxFile
    target: Target
    profiles: Profiles
    settings: Settings

    @property
    def flavour(self) -> Flavour:
        return "rtx" if self.target.is_rtx else "tensorrt"

    @property
    def quantization(self) -> QuantizationNote | None:
        """Quantization that `adadm quantize` recorded; None for a float32 export."""
        return self.model.metadata.quantization

    @property
    def usual_shapes(self) -> dict[str, Shape]:
        """Usual shape by input in the first profile; empty for a model of one size."""
        usual = self.profiles[0] if self.profiles else {}
        return {name: shape.optimum for name, shape in usual.items()}

    @property
    def first_bounds(self) -> Bounds:
        """Bounds of the first profile, or the single size of the model."""
        if self.profiles:
            return Bounds(*map(_size, astuple(self.profiles[0]["lr"])))
        (shape,) = (spec.shape for spec in self.model.inputs if spec.name == "lr")
        fixed = _size(tuple(length for length in shape if isinstance(length, int)))
        return Bounds(fixed, fixed, fixed)

    @property
    def precision(self) -> Precision:
        return self.model.metadata.precision


def default_bounds(optimum: BatchHeightWidth = _USUAL) -> Bounds:
    """Bounds close to the usual size, because the largest shape sets the memory."""
    batch, height, width = optimum
    low, high, whole = _AROUND
    return Bounds(
        (batch, max(height * low // whole, 1), max(width * low // whole, 1)),
        optimum,
        (batch, -(-height * high // whole), -(-width * high // whole)),
    )


def profiles_of(inputs: Sequence[TensorSpec], bounds: Sequence[Bounds]) -> list[dict[str, Profile]]:
    """One profile for each bounds, by default one; none for inputs of fixed sizes.

    Raises:
        EngineError: the bounds are out of order, or do not set all free sizes.
    """
    lr = next((spec for spec in inputs if spec.name == "lr"), None)
    if lr is None or len(lr.shape) != 4:
        listed = ", ".join(f"{spec.name} {spec.shape}" for spec in inputs)
        raise EngineError(f"expected a model that reads lr of four dimensions, got {listed}")
    if all(isinstance(size, int) for spec in inputs for size in spec.shape):
        fixed = _size(lr.shape)
        if others := {size for bound in bounds for size in astuple(bound)} - {fixed}:
            raise EngineError(
                f"the model takes only {fixed} (N, H, W), got {sorted(others)[0]}; leave the sizes "
                "out, or export it without --static"
            )
        return []
    bounds = bounds or [default_bounds()]

    def shape(spec: TensorSpec, size: BatchHeightWidth) -> tuple[int, ...]:
        sizes = dict(zip(_size(lr.shape), size, strict=True))
        for fixed, wanted in sizes.items():
            if isinstance(fixed, int) and fixed != wanted:
                raise EngineError(f"lr is {lr.shape}: expected {fixed}, got {wanted}")
        if unknown := [s for s in spec.shape if not isinstance(s, int) and s not in sizes]:
            raise EngineError(f"{spec.name} is {spec.shape}: the size {unknown[0]} is unknown")
        return tuple(s if isinstance(s, int) else sizes[s] for s in spec.shape)

    for sizes in map(astuple, bounds):
        if not all(1 <= low <= usual <= high for low, usual, high in zip(*sizes, strict=True)):
            raise EngineError(
                f"expected --min <= --opt <= --max in N, H and W, got {', '.join(map(str, sizes))}"
            )
    return [
        {s.name: Profile(*(shape(s, size) for size in astuple(bound))) for s in inputs}
        for bound in bounds
    ]


def _size(shape: tuple[_Length, ...]) -> tuple[_Length, _Length, _Length]:
    """N, H and W of `lr`, which is (N, H, W, 3) or (N, 3, H, W)."""
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
    """Check that a model has the form of a target, and make the recipe of its engine.

    Raises:
        EngineError: the model has another form, or the target has no engines.
    """
    if target.tensorrt is None:
        raise EngineError(f"{target.name} needs no engine: it runs the ONNX model itself")
    if compute_capabilities and not target.is_rtx:
        raise EngineError(
            f"{target.name} builds for the GPU here; leave out --compute-capability, which only "
            "tensorrt-rtx takes"
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
        problems.append(f"expected at most opset {target.opset}, got {model.opset}")
    if model.has_functions and not target.functions:
        problems.append("expected inlined modulators, got functions")
    if problems:
        raise EngineError(
            f"{model.path} does not fit {target.name}: {'; '.join(problems)}. Export it with "
            f"--opset {target.opset}{'' if target.functions else ' --modulator inline'}, or let "
            "'adadm bundle' convert it"
        )


def check_lowered(model: OnnxFile, target: Target) -> None:
    """Refuse a model that `adadm quantize` lowered for a target of another form.

    Raises:
        EngineError: the model was lowered for another form.
    """
    made_for = TARGETS.get(model.metadata.target or "")
    if made_for and made_for.form != target.form:
        raise EngineError(
            f"{model.path} was lowered for {made_for.name} ({_named(made_for)}), but {target.name} "
            f"requires {_named(target)}: adadm quantize --target {target.name}"
        )


def _named(target: Target) -> str:
    return f"{target.typing} types, opset {target.opset}"
