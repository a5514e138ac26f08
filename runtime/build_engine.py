"""Build a TensorRT engine from an ONNX model, with a manifest of what it was made from.

An engine that was made from the same model, sizes and options by the same
TensorRT for the same GPU is left as it is.
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from adadm.runtime.arguments import Paths, add_target
from adadm.runtime.engines import cuda_runtime, trtexec
from adadm.runtime.engines.builder import adopt, build, log_path
from adadm.runtime.engines.manifest import Manifest, manifest_path
from adadm.runtime.engines.recipe import Recipe, make_recipe
from adadm.runtime.engines.size_arguments import add_sizes, read_sizes
from adadm.runtime.errors import MissingDependencyError, SessionError
from adadm.runtime.models.bundled import bundled_path
from adadm.runtime.models.onnx_reader import read_onnx
from adadm.runtime.progress import Bar, Progress
from adadm.runtime.targets import TARGETS, Target

_MIB, _GIB = 2**20, 2**30


def main(argv: list[str]) -> None:
    """Parse the command line, build, and say what was built."""
    arguments = _parse(argv)
    target, output = TARGETS[arguments.target], arguments.output
    model, sizes = read_onnx(bundled_path(arguments.model)), read_sizes(arguments)
    recipe = make_recipe(model, target, sizes, arguments.compute_capability, arguments.workspace)
    if arguments.print_command:
        print("\n\n".join(_commands(recipe, arguments)))
        return
    bar = Bar(f"building {output.name}")
    if arguments.adopt is not None:
        manifest, is_new = adopt(recipe, arguments.adopt, output), True
    else:
        with bar:
            manifest, is_new = build(
                recipe, output, arguments.timing_cache, force=arguments.force, progress=bar
            )
    _print(manifest, target, bar)
    if is_new:
        print(f"wrote {output} ({manifest.engine_bytes / 1e6:.2f} MB) and {manifest_path(output)}")
    else:
        print(f"{output} is up to date")


def _commands(recipe: Recipe, arguments: argparse.Namespace) -> list[str]:
    """The line that builds, and the one whose times compare with other versions'."""
    model, target, output = str(recipe.model.path), recipe.target, str(arguments.output)
    cache = arguments.timing_cache and str(arguments.timing_cache)
    lines = (
        trtexec.build_command(
            model, output, target, recipe.profiles, settings=recipe.settings, timing_cache=cache
        ),
        trtexec.timing_command(output, target, recipe.usual_shapes),
    )
    return [trtexec.shell_line(line) for line in lines]


def _print(manifest: Manifest, target: Target, progress: Progress) -> None:
    progress.message(
        f"{manifest.precision} for {', '.join(manifest.compute_capabilities)}, TensorRT "
        f"{manifest.tensorrt}"
    )
    for index, activations in enumerate(manifest.activation_bytes or ()):
        sizes = "one size"
        if manifest.profiles:
            lr = manifest.profiles[index]["lr"]
            sizes = " to ".join("x".join(map(str, s)) for s in (lr.minimum, lr.maximum))
        progress.message(f"profile {index}, {sizes}: {activations / 1e6:.1f} MB of activations")
    needed = max(manifest.activation_bytes or (0,)) + manifest.engine_bytes
    for name, available in _memories(target):
        if needed > available:
            progress.message(
                f"warning: that is more than {name}, {available / _GIB:.1f} GiB: give a smaller "
                "--max, and run larger images in tiles",
                warning=True,
            )


def _memories(target: Target) -> list[tuple[str, float]]:
    """What the engine must fit into: the GPU here, else the smallest board of the target."""
    with suppress(MissingDependencyError, SessionError):
        return [("the GPU's free memory", float(cuda_runtime.memory()[0]))]
    if target.memory_gib is not None:
        return [("the memory of the smallest board", target.memory_gib[0] * _GIB)]
    return []


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="adadm build", description=__doc__)
    paths = Paths()
    add = parser.add_argument
    add("model", type=paths.model, metavar="MODEL.onnx", help="or x2, x4: a bundled model")
    add_target(parser, {name: target for name, target in TARGETS.items() if target.tensorrt})
    output = paths.written_as(".engine")
    add("-o", "--output", type=output, required=True, metavar="OUT.engine")
    add_sizes(parser)
    add(
        "--timing-cache",
        type=paths.written,
        metavar="FILE",
        help="what builds have timed, kept for others",
    )
    add(
        "--compute-capability",
        action="append",
        default=[],
        metavar="SM89",
        help="for tensorrt-rtx, once for each GPU; default: that of the GPU here, else all",
    )
    add("--force", action="store_true", help="build anew what is up to date")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--print-command",
        action="store_true",
        help="print the line for trtexec of the target's version, and the one that times it",
    )
    how.add_argument(
        "--adopt",
        type=Path,
        metavar="PLAN",
        help="take an engine that trtexec built so on this machine, and write its manifest",
    )
    arguments = parser.parse_args(argv)
    plan = arguments.adopt
    in_place = plan is not None and plan.absolute() == arguments.output.absolute()  # it stays
    adopted = [] if plan is None or in_place else [plan]
    paths.check(adopted, [manifest_path(arguments.output), log_path(arguments.output)])
    return arguments
