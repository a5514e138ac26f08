from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from _support.networks import random_network
from adadm.calibration.source_network import SourceNetwork, load_source_network
from adadm.export import Options, collapse_tail, fold_batch_norm, save_checkpoint
from adadm.export.assembly import assemble, bake_image_io
from adadm.runtime.errors import CalibrationError, CheckpointError, EngineError

UNFOLDED = Options(fold="off")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("trained") / "edsr.safetensors"
    save_checkpoint(path, random_network("edsr", 2))
    return path


@pytest.fixture(scope="module")
def traced(checkpoint: Path) -> SourceNetwork:
    return load_source_network(checkpoint)


@pytest.fixture
def export(traced: SourceNetwork, tmp_path: Path) -> Callable[[Options], Path]:
    def exported(options: Options) -> Path:
        assert traced.network is not None
        assembled = assemble(traced.model.clone(), traced.metadata, options)
        model = assembled.model
        if options.io == "uint8":
            model = bake_image_io(model, traced.network, options)
        if assembled.tiles is not None:
            model = assembled.tiles.tile
        path = tmp_path / "edsr.onnx"
        onnx.save(model, path)
        return path

    return exported


def parameters(source: SourceNetwork) -> dict[str, np.ndarray[Any, Any]]:
    """The weights and biases of all convolutions, once folded and collapsed."""
    model = source.model.clone()
    fold_batch_norm(model)
    collapse_tail(model)
    return {
        f"{node.name}.{kind}": value.const_value.numpy()
        for node in model.graph
        if node.op_type == "Conv"
        for kind, value in zip(("weight", "bias"), node.inputs[1:], strict=True)
        if value is not None and value.const_value is not None
    }


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("tail", ["original", "collapsed"])
def test_an_export_gives_the_same_graph_as_its_checkpoint(
    traced: SourceNetwork, export: Callable[[Options], Path], tail: Any, opset: int
) -> None:
    path = export(replace(UNFOLDED, tail=tail, opset=opset))
    expected, found = parameters(traced), parameters(load_source_network(path))
    assert found.keys() == expected.keys() and len(found) > 20
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, name)


@pytest.mark.parametrize("tail", ["original", "collapsed"])
def test_what_is_assembled_of_them_says_the_same(
    traced: SourceNetwork, export: Callable[[Options], Path], tail: Any
) -> None:
    sources = traced, load_source_network(export(replace(UNFOLDED, tail=tail)))
    metadata = [
        {
            entry.key: entry.value
            for entry in assemble(s.model.clone(), s.metadata, Options()).model.metadata_props
        }
        for s in sources
    ]
    assert metadata[0] == metadata[1]
    assert metadata[0]["adadm.tail"] == "collapsed" and metadata[0]["adadm.fold"] == "exact"
    assert metadata[0]["adadm.receptive_field"] == "10"


def test_what_is_known_of_a_source(
    checkpoint: Path, traced: SourceNetwork, export: Callable[[Options], Path]
) -> None:
    path = export(UNFOLDED)
    exported = load_source_network(path)
    for source, file in ((traced, checkpoint), (exported, path)):
        known = source.metadata
        assert (known.upscale, known.rgb_range, known.smallest_area) == (2, 255, 1)
        assert source.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert known.checkpoint_sha256 == traced.sha256
        assert source.static is None
    assert traced.network is not None and exported.network is None


def test_flags_reach_the_checkpoint(checkpoint: Path) -> None:
    source = load_source_network(checkpoint, "edsr", res_scale=None, rgb_range=1)
    assert source.metadata.rgb_range == 1
    with pytest.raises(CheckpointError, match="expected tensors of rdn"):
        load_source_network(checkpoint, "rdn")


def test_a_checkpoint_with_fixed_sizes(checkpoint: Path) -> None:
    source = load_source_network(checkpoint, free_sizes=False)
    assert source.static is not None
    batch, height, width = source.static
    assert source.model.graph.inputs[0].shape == ir.Shape([batch, 3, height, width])
    assert source.model.graph.outputs[0].shape == ir.Shape([batch, 3, 2 * height, 2 * width])


def test_fixed_sizes_are_kept(export: Callable[[Options], Path]) -> None:
    source = load_source_network(export(replace(UNFOLDED, static=(2, 24, 30))))
    assert source.static == (2, 24, 30)
    assert source.model.graph.inputs[0].shape == ir.Shape([2, 3, 24, 30])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(), "normalization is folded. Export it again with --fold off, or give the check"),
        (replace(UNFOLDED, io="uint8"), "it reads uint8 images. Export it again with --io float32"),
        (replace(UNFOLDED, modulator="inline"), "are inlined. .* with --modulator function"),
        (replace(UNFOLDED, factors=True), "returns sr, factor_0, factor_1, .* with no --factors"),
        (
            replace(UNFOLDED, stats="external"),
            "is the `external` model for tiles. .*--stats internal",
        ),
        (Options(factors=True), "is folded; it returns .* with --fold off, no --factors, or give"),
    ],
)
def test_other_forms_are_refused(
    export: Callable[[Options], Path], options: Options, message: str
) -> None:
    with pytest.raises(CalibrationError, match=message):
        load_source_network(export(options))


def test_an_opset_that_is_not_known_is_refused(export: Callable[[Options], Path]) -> None:
    path = export(UNFOLDED)
    model = onnx.load(path)
    model.opset_import[0].version = 16
    onnx.save(model, path)
    with pytest.raises(
        CalibrationError, match=r"it has opset 16\. Export it again with --opset 19"
    ):
        load_source_network(path)


def test_files_of_others_and_damaged_ones_are_refused(
    export: Callable[[Options], Path], tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign.onnx"
    text = '<ir_version: 9, opset_import: ["" : 19]> g (float[N] x) => (float[N] y) {y = Relu (x)}'
    onnx.save(parser.parse_model(text), foreign)
    with pytest.raises(CalibrationError, match=r"not written by adadm export .*lacks adadm\.arch"):
        load_source_network(foreign)
    with pytest.raises(EngineError, match="No such file"):
        load_source_network(tmp_path / "missing.onnx")
    path = export(UNFOLDED)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(
        EngineError, match=r"not a complete ONNX model: .*; copy or export it again"
    ):
        load_source_network(path)


def test_flags_of_checkpoints_are_refused_for_onnx(export: Callable[[Options], Path]) -> None:
    with pytest.raises(
        CalibrationError, match="--arch, --res-scale can be given with a checkpoint"
    ):
        load_source_network(export(UNFOLDED), "edsr", res_scale=0.1, rgb_range=None)
