"""Make a folder from which a device without network access builds and verifies engines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from importlib.metadata import version
from pathlib import Path

import onnx

from adadm.calibration.target_forms.target_model import deploy
from adadm.deployment.bundling.references import factor_tolerance, make_references
from adadm.deployment.bundling.sbom import SBOM, bill_of_materials
from adadm.deployment.bundling.texts import build_script, readme
from adadm.deployment.bundling.wheels import collect_wheels
from adadm.runtime import json_format
from adadm.runtime.bundles.bundle import MANIFEST, BundleManifest, ShapeRange, record
from adadm.runtime.engines.builder import ledger_beside
from adadm.runtime.engines.recipe import Bounds, Recipe, check_lowered, make_recipe
from adadm.runtime.engines.tensorrt_api import Profiles, Settings, build_engine
from adadm.runtime.errors import EngineError, MissingDependencyError
from adadm.runtime.files import flush, naming, real_path, sha256_of
from adadm.runtime.leftovers import temporary_folder
from adadm.runtime.models.bundled import VARIANTS, Variant, variant_path
from adadm.runtime.models.onnx_reader import read_onnx
from adadm.runtime.progress import SILENT, Progress
from adadm.runtime.targets import Target

_MODEL, _PATCH = Path("model.onnx"), "model.factors.patch"
_STAND_INS = {"SM72": "SM75", "SM87": "SM86", "SM110": "SM120"}
"""Nearest compute capability for which TensorRT for RTX can build, by that of a Jetson."""


def make_bundle(
    model: Path,
    target: Target,
    bounds: Sequence[Bounds],
    folder: Path,
    *,
    wheels: bool = True,
    workspace_bytes: int | None = None,
    sign: Callable[[Path], object] | None = None,
    progress: Progress = SILENT,
) -> BundleManifest:
    """Make the folder, whole or not at all.

    Args:
        model: file of `adadm export` or `adadm quantize`; models for tiles beside it are included.
        bounds: N, H and W of each profile; empty for the default.
        folder: must be missing or empty.
        wheels: fetch the wheels that the device needs.
        sign: signs the manifest, as a `signer`.

    Returns:
        Content of MANIFEST.json.

    Raises:
        EngineError: the model is damaged or does not fit the target, models for tiles beside it
            belong to another model, or the folder is not empty.
        ExportError: the model cannot have the form of the target, or pip fails.
    """
    with _whole_folder(folder) as partial:
        progress.phase("converting the model to the target's form")
        deployed = {v: deploy(path, target) for v, path in _sources(model, target).items()}
        recipes: dict[Variant, Recipe] = {}
        for variant, item in deployed.items():
            path = partial / _name(variant)
            onnx.save(item.model, path)
            recipes[variant] = make_recipe(
                read_onnx(path), target, bounds, workspace_bytes=workspace_bytes
            )
        if deployed["whole"].factors_patch:
            (partial / _PATCH).write_bytes(deployed["whole"].factors_patch)
        report = ledger_beside(model, recipes["whole"].quantization)
        if report is not None:
            (partial / "model.json").write_text(json_format.text(report), encoding="utf-8")
        progress.phase("running the references")
        references = make_references(deployed, recipes["whole"].first_bounds)
        rows = [
            record(
                partial,
                item.name,
                item.variant,
                inputs=item.inputs,
                outputs=item.outputs,
                psnr_db=item.psnr_db,
            )
            for item in references
        ]
        progress.phase("planning memory with TensorRT for RTX")
        memories = {variant: _activations(recipe) for variant, recipe in recipes.items()}
        files = resources.files("adadm.deployment.bundling.device_files")
        script = "verify.py" if target.runs_runtime else "compare_outputs.py"
        (partial / "verify.py").write_bytes((files / script).read_bytes())
        (partial / "build.sh").write_text(build_script(recipes, references), encoding="utf-8")
        (partial / "build.sh").chmod(0o755)
        if wheels and target.runs_runtime:
            collect_wheels(target, partial / "wheels", progress=progress)
        bill = bill_of_materials(list(recipes.values()), partial / "wheels")
        (partial / SBOM).write_text(json_format.text(bill), encoding="utf-8")
        (partial / "README.md").write_text(
            readme(recipes, deployed, memories, references, sorted(os.listdir(partial))),
            encoding="utf-8",
        )
        progress.phase("writing checksums")
        whole = recipes["whole"]
        manifest = BundleManifest(
            adadm=version("adadm-deploy"),
            source_sha256=sha256_of(model),
            target_name=target.name,
            precision=whole.precision,
            tensorrt=target.tensorrt,
            quantization=whole.quantization,
            models={variant: _name(variant) for variant in recipes},
            engines={v: str(Path(_name(v)).with_suffix(".engine")) for v in recipes},
            shapes={variant: _shapes(recipe.profiles) for variant, recipe in recipes.items()},
            workspace_bytes=whole.settings.workspace_bytes,
            factors_patch=_PATCH if deployed["whole"].factors_patch else None,
            factor_tolerance=factor_tolerance(references),
            references=tuple(rows),
            files={
                path.relative_to(partial).as_posix(): sha256_of(path)
                for path in sorted(partial.rglob("*"))
                if path.is_file()
            },
        )
        (partial / MANIFEST).write_text(json_format.text(manifest), encoding="utf-8")
        if sign is not None:
            sign(partial / MANIFEST)
    return manifest


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, which is renamed to it when complete."""
    _check_empty(folder)
    folder = real_path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder.parent) as partial:
        with naming(folder, partial):
            yield partial
            for path in partial.rglob("*"):
                if path.is_file():
                    flush(path)
        partial.chmod(0o755)
        try:
            partial.rename(folder)
        except OSError:
            _check_empty(folder)  # another run may have made it meanwhile
            raise


def _check_empty(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise EngineError(f"{folder} exists and is not an empty folder; give another name")


def _sources(model: Path, target: Target) -> dict[Variant, Path]:
    """The variants of a model; refuses damaged ones, and those of another network or form."""
    paths = {variant: variant_path(model, variant) for variant in VARIANTS}
    paths = {variant: path for variant, path in paths.items() if path.is_file()}
    files = {variant: read_onnx(path) for variant, path in paths.items()}
    for path, found in zip(paths.values(), files.values(), strict=True):
        check_lowered(found, target)
        if differs := found.metadata.difference(files["whole"].metadata):
            raise EngineError(
                f"{path} {differs} than {model}; make both again, with --stats external, or "
                "move it elsewhere"
            )
    return paths


def _name(variant: Variant) -> str:
    return str(variant_path(_MODEL, variant))


def _activations(recipe: Recipe) -> tuple[int, ...]:
    """Bytes of activations of each profile, planned by TensorRT for RTX; empty without it.

    It plans for the GPU nearest to the target's. Weakly typed models are built in float32, which
    gives an upper bound.
    """
    capabilities = recipe.target.compute_capabilities or ("SM86",)
    stand_ins = tuple(_STAND_INS.get(name, name) for name in capabilities)
    try:
        engine = build_engine(
            recipe.model.content, recipe.profiles, "rtx", settings=Settings(stand_ins[:1])
        )
    except (MissingDependencyError, EngineError):  # the nearest GPU may lack features
        return ()
    return engine.activation_bytes


def _shapes(profiles: Profiles) -> tuple[dict[str, ShapeRange], ...]:
    return tuple(
        {name: ShapeRange(p.minimum, p.optimum, p.maximum) for name, p in profile.items()}
        for profile in profiles
    )
