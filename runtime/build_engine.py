"""Build a TensorRT engine from an ONNX model, with a manifest of how it was built.

An engine is not rebuilt if it was made from the same model, sizes and options by
the same TensorRT for the same GPU.
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from adadm.runtime.arguments import Parser, Paths, add_target, readable_path
from adadm.runtime.engines import cuda_runtime, trtexec
from adadm.runtime.engines.builder import adopt, build, log_path
from adadm.runtime.engines.manifest import Manifest, manifest_path
from adadm.runtime.engines.recipe import Recipe, make_recipe
from adadm.runtime.engines.size_arguments import add_sizes, read_sizes
from adadm.runtime.errors import MissingDependencyError, SessionError
from adadm.runtime.models.bundled import BUNDLED, bundled_path, companion_files
from adadm.runtime.models.onnx_reader import read_onnx
from adadm.runtime.progress import Bar, Progress
from adadm.runtime.targets import TARGETS, Target
from adadm.runtime.terminal import say

_MIB, _GIB = 2**20, 2**30


def main(argv: list[str]) -> None:
    """Parse the command line, build, and print a summary."""
    arguments = _parse(argv)
    target, output = TARGETS[arguments.target], arguments.output
    model, sizes = read_onnx(bundled_path(arguments.model)), read_sizes(arguments)
    recipe = make_recipe(model, target, sizes, arguments.compute_capability, arguments.workspace)
    if arguments.print_command:
        print("\n\n".join(_commands(recipe, arguments)))  # noqa: T201 - as they are, to be copied
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
        say(f"wrote {output} ({manifest.engine_bytes / 1e6:.2f} MB) and {manifest_path(output)}")
    else:
        say(f"{output} is up to date")


def _commands(recipe: Recipe, arguments: argparse.Namespace) -> list[str]:
    """The trtexec line that builds, and the one whose times are comparable between versions."""
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
                f"warning: the engine needs more than {name}, {available / _GIB:.1f} GiB: give a "
                "smaller --max, and run larger images in tiles",
                warning=True,
            )


def _memories(target: Target) -> list[tuple[str, float]]:
    """Memories that must hold the engine: the GPU here, else the target's smallest board."""
    with suppress(MissingDependencyError, SessionError):
        return [("the GPU's free memory", float(cuda_runtime.memory()[0]))]
    if target.memory_gib is not None:
        return [("the memory of the smallest board", target.memory_gib[0] * _GIB)]
    return []


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="adadm build", description=__doc__)
    paths = Paths()
    add = parser.add_argument
    add(
        "model",
        type=paths.model,
        metavar="MODEL.onnx",
        help=f"an exported model, or a bundled one: {', '.join(BUNDLED)}",
    )
    add_target(parser, {name: target for name, target in TARGETS.items() if target.tensorrt})
    output = paths.written_as(".engine")
    add(
        "-o",
        "--output",
        type=output,
        metavar="OUT.engine",
        help="default: the model's name with .engine, in this folder",
    )
    add_sizes(parser)
    add(
        "--timing-cache",
        type=paths.written_file,
        metavar="FILE",
        help="reuse and extend the kernel timings of earlier builds",
    )
    add(
        "--compute-capability",
        action="append",
        default=[],
        metavar="SM89",
        help="for tensorrt-rtx; repeat for each GPU; default: that of the GPU here, else all",
    )
    add("--force", action="store_true", help="rebuild an engine that is up to date")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--print-command",
        action="store_true",
        help="print the trtexec lines that build and time the engine, for the target's version",
    )
    how.add_argument(
        "--adopt",
        type=readable_path,
        metavar="PLAN",
        help="take an engine that trtexec built with that line on this machine; write its manifest",
    )
    arguments = parser.parse_args(argv)
    default = Path(companion_files(arguments.model)[0].with_suffix(".engine").name)
    arguments.output = arguments.output or paths.written(default)
    plan = arguments.adopt
    in_place = plan is not None and plan.absolute() == arguments.output.absolute()  # it stays
    adopted = [] if plan is None or in_place else [plan]
    paths.check(adopted, [manifest_path(arguments.output), log_path(arguments.output)])
    return arguments
