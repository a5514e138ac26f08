"""The whole run: checkpoint, export, FP16 and INT8, certificates, engines, bundles."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from adadm.calibration.lowering import LoweringOptions, Precision
from adadm.calibration.pipeline import lower_network
from adadm.calibration.quality.acceptance import acceptable, check_accepted
from adadm.calibration.quality.photographs import CalibrationImages
from adadm.calibration.source_network import load_source_network
from adadm.deployment.bundling.make_bundle import make_bundle
from adadm.deployment.certification.baseline import Baseline, load_baseline
from adadm.deployment.certification.candidate import load_candidate
from adadm.deployment.certification.certificate import ModelCertificate, read_certificate
from adadm.deployment.certification.certify import certify
from adadm.deployment.certification.consistency import is_certificate_of
from adadm.deployment.certification.criteria import acceptable_checks
from adadm.deployment.certification.report.page import page_path, write_certificate
from adadm.deployment.shipping.options import ShipOptions, ShipResult
from adadm.deployment.shipping.steps import Steps
from adadm.deployment.signatures import signature_path, signer
from adadm.export.checkpoint import Checkpoint, load_checkpoint
from adadm.export.options import Options
from adadm.export.pipeline import export_onnx
from adadm.runtime.engines.builder import build, check_builds_here
from adadm.runtime.engines.recipe import Recipe, make_recipe
from adadm.runtime.errors import CalibrationError, EngineError, MissingDependencyError, SessionError
from adadm.runtime.files import sha256_of
from adadm.runtime.models.bundled import VARIANTS, report_path, variant_path
from adadm.runtime.models.onnx_reader import read_onnx
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.targets import Target

_FLOAT32 = "float32"
_LEAST_TO_SPLIT = 3


@dataclass(frozen=True)
class ShipRun:
    """One run for a checkpoint, made by `of`.

    Attributes:
        checkpoint: the network that is shipped, read once.
        calibration, certification: photographs for each; the same if there are fewer than three.
        steps: record of the steps done.
        sign: signs a file; None without a key.
        progress: receives phases and messages.
    """

    options: ShipOptions
    checkpoint: Checkpoint
    calibration: CalibrationImages
    certification: CalibrationImages
    steps: Steps
    sign: Callable[[Path], object] | None
    progress: Progress

    @classmethod
    def of(cls, options: ShipOptions, *, progress: Progress = SILENT) -> ShipRun:
        """Read the checkpoint, and choose photographs.

        Two thirds are for calibration, the rest for certification. Fewer than three are used for
        both.

        Raises:
            CheckpointError, ImageError, CalibrationError: the checkpoint or the photographs cannot
                be used, or a name to accept is unknown.
            SignatureError: the key cannot be used.
        """
        sign = signer(options.sign) if options.sign else None
        checkpoint = load_checkpoint(options.checkpoint, **options.undetectable)
        network = checkpoint.network

        chosen = CalibrationImages.of(
            options.images,
            network.upscale,
            count=options.photographs,
            smallest_area=network.smallest_area,
            progress=progress,
        )
        calibration, certification = chosen.split(_LEAST_TO_SPLIT)
        known = dict.fromkeys((*acceptable(calibration), *acceptable_checks(certification)))
        check_accepted(options.accept, known)
        progress.message(f"calibration: {calibration}")
        progress.message(f"certificates: {certification}")
        if chosen.too_few:
            progress.message(chosen.too_few, warning=True)
        return cls(
            options,
            checkpoint,
            calibration,
            certification,
            Steps(
                options.folder / "steps.json",
                [options.checkpoint, *chosen.files.values()],
                progress=progress,
            ),
            sign,
            progress,
        )

    def run(self) -> Iterator[ShipResult]:
        """Make what is missing, and yield a row for each target and precision when it is done.

        Raises:
            AdadmError: a step fails; finished steps stay recorded. A precision whose budget cannot
                be met gives a row without a model instead.
        """
        options = self.options
        float32 = self._export()
        yield ShipResult("any", _FLOAT32, float32, self._certify(float32, {}))
        lowered: dict[tuple[Any, ...], ShipResult] = {}
        for target in options.targets:
            for precision in _precisions(target):
                key = (precision, target.form)
                if key not in lowered:
                    lowered[key] = self._lowered_row(target, precision)
                row = lowered[key]
                made = self._for_device(row.model, target, precision) if row.model else ()
                yield replace(row, target=target.name, made=tuple(made))

    def _file(self, folder: str, ending: str) -> Path:
        return self.options.folder / folder / f"{self.options.checkpoint.stem}.{ending}"

    @cached_property
    def _baseline(self) -> Baseline:
        return load_baseline(self.options.checkpoint, **self.options.undetectable)

    def _export(self) -> Path:
        output, stats = self._file("models", "onnx"), self.options.stats

        def make() -> None:
            self.progress.phase("export")
            export = export_onnx(self.checkpoint, Options(stats=stats), progress=self.progress)
            for warning in export.warnings:
                self.progress.message(warning, warning=True)
            export.write(output)

        self.steps.run("export", self._from(stats=stats), self._variants(output), make)
        return output

    def _lowered_row(self, target: Target, precision: Precision) -> ShipResult:
        try:
            model = self._lower(target, precision)
        except CalibrationError as error:
            return ShipResult(target.name, precision, None, None, problem=str(error))
        limits = {"lost_db": self.options.budgets_db[precision]}
        return ShipResult(target.name, precision, model, self._certify(model, limits))

    def _lower(self, target: Target, precision: Precision) -> Path:
        options, budget_db = self.options, self.options.budgets_db[precision]
        output = self._file("models", f"{precision}.{target.name}.onnx")
        accept = self._accepted(acceptable(self.calibration))

        def make() -> None:
            self.progress.phase(f"{precision} for {target.name}")
            request = LoweringOptions(
                precision,
                target,
                budget_db,
                stats=options.stats,
                cache=options.cache,
                accept=accept,
            )
            source = load_source_network(options.checkpoint, **self.options.undetectable)
            quantized = lower_network(source, self.calibration, request, progress=self.progress)
            quantized.check()
            quantized.write(output)

        lowered_for = {"target": target.name, "precision": precision, "budget_db": budget_db}
        made_from = self._from(
            **lowered_for, stats=options.stats, images=self.calibration.digest, accept=accept
        )
        outputs = [*self._variants(output), report_path(output)]
        self.steps.run(f"lower {precision} {target.name}", made_from, outputs, make)
        return output

    def _certify(self, model: Path, limits: Mapping[str, float]) -> ModelCertificate:
        output = model.with_suffix(".certificate.json")
        accept = self._accepted(acceptable_checks(self.certification))

        def make() -> None:
            progress, truth, images = self.progress, self._baseline, self.certification
            progress.phase(f"certificate of {model.name}")
            candidate = load_candidate(model, truth, "cpu")
            certified = certify(
                truth,
                candidate,
                images,
                originals=True,
                given=limits,
                accepted=accept,
                at=output,
                progress=progress,
            )
            write_certificate(certified.certificate, certified.crops, output)

        digests, images_sha256 = self._digests(model), self.certification.digest
        made_from = self._from(
            models=digests, limits=dict(limits), images=images_sha256, accept=accept
        )
        name = f"certificate {model.name}"
        companions = {file: digest for file, digest in digests.items() if file != model.name}
        if not is_certificate_of(  # the record alone is not trusted
            output,
            digests[model.name],
            companions=companions,
            reference=self.checkpoint.sha256,
            images=images_sha256,
            given=limits,
            accepted=accept,
        ):
            self.steps.forget(name)
        self.steps.run(name, made_from, [output, page_path(output)], make)
        if self.sign is not None:
            signed = {"certificate": sha256_of(output), "key": self._key}
            sign = partial(self.sign, output)
            self.steps.run(f"signature of {name}", signed, [signature_path(output)], sign)
        certificate = read_certificate(output)
        assert isinstance(certificate, ModelCertificate)  # just written, or `is_certificate_of`
        return certificate

    def _for_device(self, model: Path, target: Target, precision: Precision) -> Iterator[str]:
        """Make the engine if this machine can build it, and the bundle if a device must."""
        if target.tensorrt is None:
            return
        recipe = make_recipe(read_onnx(model), target, ())
        try:
            check_builds_here(recipe)
        except (EngineError, MissingDependencyError, SessionError):
            pass  # the device builds it from the bundle
        else:
            yield self._engine(recipe)
        if not target.is_rtx:
            yield self._bundle(model, target, precision)

    def _engine(self, recipe: Recipe) -> str:
        engine = self._file("engines", f"{recipe.precision}.{recipe.target.name}.engine")
        engine.parent.mkdir(parents=True, exist_ok=True)
        self.progress.message(f"engine {engine.name}: begun")
        self.progress.phase(f"engine {engine.name}")
        _, is_new = build(recipe, engine, progress=self.progress)
        self.progress.message(f"engine {engine.name}: {'done' if is_new else 'up to date'}")
        return str(engine.relative_to(self.options.folder))

    def _bundle(self, model: Path, target: Target, precision: Precision) -> str:
        folder = self.options.folder / "bundles" / f"{target.name}-{precision}"

        def make() -> None:
            self.progress.phase(f"bundle {folder.name}")
            make_bundle(
                model,
                target,
                (),
                folder,
                wheels=self.options.wheels,
                sign=self.sign,
                progress=self.progress,
            )

        made_from = self._from(
            target=target.name,
            models=self._digests(model),
            wheels=self.options.wheels,
            key=self._key,
        )
        self.steps.run(f"bundle {folder.name}", made_from, [folder], make)
        return str(folder.relative_to(self.options.folder))

    @cached_property
    def _key(self) -> str | None:
        """Digest of the private key."""
        return None if self.options.sign is None else sha256_of(self.options.sign)

    def _accepted(self, known: Sequence[str]) -> list[str]:
        """Names to accept that a step knows."""
        return [name for name in self.options.accept if name in known]

    def _from(self, **more: Any) -> dict[str, Any]:
        return {
            "version": importlib.metadata.version("adadm-deploy"),
            "checkpoint": self.checkpoint.sha256,
            "hidden": dict(self.options.undetectable),
            **more,
        }

    def _digests(self, model: Path) -> dict[str, str]:
        """Digests of a model and of those for tiles, by file name."""
        return {path.name: sha256_of(path) for path in self._variants(model)}

    def _variants(self, model: Path) -> list[Path]:
        if self.options.stats == "internal":
            return [model]
        return [variant_path(model, variant) for variant in VARIANTS]


def _precisions(target: Target) -> tuple[Precision, ...]:
    return ("fp16", "int8") if target.computes_half else ("int8",)
