"""The float32 graphs and tensor statistics of a network, and their lowering for a target."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import onnx
import onnx_ir as ir

from adadm.calibration.passes import ScaleTrunk
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.calibration.ranges.float16_ranges import (
    HalfRange,
    half_ranges,
    trunk_exponent,
    wide_values,
)
from adadm.calibration.ranges.int8_ranges import (
    ConvolutionRange,
    choose_ranges,
    multiply_adds,
    quantize_convolutions,
)
from adadm.calibration.ranges.tensor_statistics import TensorStatistics, collect
from adadm.calibration.search.sensitivity import Convolution
from adadm.calibration.source_network import SourceNetwork
from adadm.calibration.target_forms.target_model import TargetModel, check_half, in_target_form
from adadm.export.assembly import assemble
from adadm.export.graph.channel_maps import note_channel_maps
from adadm.export.options import Options
from adadm.export.passes import ExposeFactors
from adadm.export.proof.drawn_pictures import plain_size
from adadm.runtime.errors import CalibrationError
from adadm.runtime.models.bundled import Variant
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.targets import Target

Precision = Literal["fp16", "int8"]

BUDGETS_DB: Mapping[Precision, float] = {"fp16": 0.005, "int8": 0.02}
"""Default limits of the PSNR-Y loss, dB."""

_OPSET = 19


@dataclass(frozen=True)
class LoweringOptions:
    """Options of `lower_network`.

    Attributes:
        budget_db: limit of the PSNR-Y loss against float32, mean over the photographs.
        io, stats, static: as in `export.Options`.
        sensitivity: always measure each convolution, alone in INT8 and alone spared.
        cache: folder of results from which an interrupted run resumes.
        accept: names of gates and inputs whose failure is accepted (`quality.acceptance`).
    """

    precision: Precision
    target: Target
    budget_db: float
    io: Literal["float32", "uint8"] = "float32"
    stats: Literal["internal", "external"] = "internal"
    static: tuple[int, int, int] | None = None
    sensitivity: bool = False
    cache: Path | None = None
    accept: Sequence[str] = ()


@dataclass(frozen=True)
class Lowering:
    """The float32 graphs of a network, and the same graphs in lower precision; made by `of`.

    Attributes:
        images: photographs at the size at which the model will run.
        variants: float32 graphs: `whole`, and with external statistics `tile` and `moments`.
        statistics: tensor statistics of `whole`.
        exponent: the trunk is multiplied by 2**exponent, so that float16 holds it.
        factor_scales: multiplier of each modulation factor that results from `exponent`, in graph
            order; empty if the trunk is not scaled.
    """

    source: SourceNetwork
    images: CalibrationImages
    request: LoweringOptions
    variants: Mapping[Variant, ir.Model] = field(default_factory=dict)
    statistics: Mapping[str, TensorStatistics] = field(default_factory=dict)
    exponent: int = 0
    factor_scales: Sequence[float] = ()

    @classmethod
    def of(
        cls,
        source: SourceNetwork,
        images: CalibrationImages,
        request: LoweringOptions,
        *,
        progress: Progress = SILENT,
    ) -> Lowering:
        """Fold a network, observe its tensors, and scale its trunk where float16 would overflow.

        Args:
            images: photographs at the size at which the model will run.

        Raises:
            ExportError: the graph cannot have the requested form.
            CalibrationError: the float32 network diverges on a photograph.
        """
        if request.precision == "fp16":
            check_half(request.target)
        if request.static and request.static[0] > 1:
            raise CalibrationError(
                f"cannot lower a model with a batch size of {request.static[0]}: photographs are "
                "measured one by one; fix N to 1, or export without --static"
            )

        plain = cls(source, images, request)._observed(source.model, progress)
        if not request.target.computes_half:
            return plain
        exponent = trunk_exponent(plain.whole.graph, plain.statistics)
        scaled, scaling = source.model.clone(), ScaleTrunk(exponent)
        if not exponent or not scaling(scaled).modified:
            return plain
        factor_scales = tuple(scaling.factor_scales)
        observed = plain._observed(scaled, progress)
        return replace(observed, exponent=exponent, factor_scales=factor_scales)

    def _observed(self, model: ir.Model, progress: Progress) -> Lowering:
        """Copy with the graphs of a model and the tensor statistics of its `whole` graph."""
        progress.phase("folding and collapsing")
        assembled = assemble(model.clone(), self.source.metadata, self._options)
        protos: dict[Variant, onnx.ModelProto] = {"whole": assembled.model}
        if tiles := assembled.tiles:
            protos |= {"tile": tiles.tile, "moments": tiles.moments}
        progress.phase("observing the ranges of all tensors")
        statistics = collect(
            assembled.model,
            self.images,
            self.source.metadata.rgb_range,
            self.size,
            self.request.cache,
            progress=progress,
        )
        variants = {variant: ir.from_proto(proto) for variant, proto in protos.items()}
        return replace(self, variants=variants, statistics=statistics)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of drawn inputs."""
        static = self.request.static
        return static[1:] if static else plain_size(self.source.metadata.smallest_area)

    @cached_property
    def ranges(self) -> list[HalfRange]:
        """Range of each float16 tensor, the nearest to overflow first; empty without float16."""
        return half_ranges(self.whole.graph, self.statistics) if self._half else []

    @cached_property
    def work(self) -> dict[str, int]:
        """Multiply-adds of all convolutions by name, at 480x270 px."""
        return multiply_adds(self.whole)

    @property
    def convolutions(self) -> list[Convolution]:
        """Convolutions that can be INT8, in network order."""
        return [Convolution(name, self.work[name]) for name in self._int8_ranges]

    @property
    def whole(self) -> ir.Model:
        """The float32 graph for whole images."""
        return self.variants["whole"]

    @property
    def reference(self) -> onnx.ModelProto:
        """The float32 graph as a file: the reference of every loss."""
        proto: onnx.ModelProto = ir.to_proto(self.whole)
        return proto

    def share(self, names: Collection[str]) -> float:
        """Fraction of all multiply-adds that these convolutions perform, 0..1."""
        return sum(self.work[name] for name in names) / sum(self.work.values())

    @property
    def key(self) -> str:
        """Digest of everything that a loss depends on, except the assignment."""
        content = self.lowered("whole", list(self._int8_ranges)).evaluated
        digest = hashlib.sha256(f"{version('adadm-deploy')} {self.images.digest}".encode())
        for model in (self.reference, content):
            digest.update(model.SerializeToString(deterministic=True))
        return digest.hexdigest()[:32]

    def lowered(
        self, variant: Variant, int8: Collection[str], *, factors: bool = False
    ) -> TargetModel:
        """Lower a variant for the target, with these convolutions in INT8.

        Args:
            factors: also return the modulation factors.
        """
        model = self.variants[variant].clone()
        if factors:
            ExposeFactors()(model)
        quantize_convolutions(model, self._int8_ranges, int8)
        if variant == "whole":
            note_channel_maps(model)
        computed = {value.name for node in model.graph for value in node.outputs}
        return in_target_form(
            model,
            self.request.target,
            half=self._half,
            wide=self._wide & computed,
            io=self.request.io,
            rgb_range=self.source.metadata.rgb_range,
        )

    def float32(self, **changed: Any) -> onnx.ModelProto:
        """Assemble the network in another form of `export.Options`, such as `tail="original"`."""
        options = replace(self._options, stats="internal", **changed)
        return assemble(self.source.model.clone(), self.source.metadata, options).model

    @property
    def _half(self) -> bool:
        return self.request.target.computes_half

    @cached_property
    def _wide(self) -> set[str]:
        return wide_values(self.whole.graph, self.statistics) if self._half else set()

    @cached_property
    def _int8_ranges(self) -> dict[str, ConvolutionRange]:
        return choose_ranges(self.whole.graph, self.statistics, self._wide)

    @property
    def _options(self) -> Options:
        return Options(opset=_OPSET, static=self.request.static, stats=self.request.stats)
