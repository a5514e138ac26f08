"""Small models as seeds of readers, and changes of models by what they consist of."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from _support.kept import kept
from fuzz.mutations import mutate_json, mutate_protobuf
from fuzz.reader import Files

MODEL = "model.onnx"
_NOTED = {
    "adadm.memory": '{"cpu": [35000000, 1500], "openvino": [89000000, 1200]}',
    "adadm.halo_errors": "[[0, 35.0], [16, 0.5]]",
}
_LOWERED = {"fp16": "tensorrt10", "int8": "tensorrt10", "weak": "jetson-orin-jp60"}


@functools.cache
def seed_models() -> Mapping[str, Files]:
    """Models of one network with a block of eight features, in each form, as files by name.

    `tiles` has the two models for tiles beside it. `foreign` is what another exporter may write.
    """
    folder = kept(_write)
    return {
        form.name: {file.name: file.read_bytes() for file in sorted(form.iterdir())}
        for form in sorted(folder.iterdir())
    }


def _write(folder: Path) -> None:
    from _support.exports import trace_like
    from _support.graphs import from_text
    from _support.lowered import lowered_small
    from _support.toy_networks import enlarging_edsr
    from adadm.export import Options, load_checkpoint, save_checkpoint
    from adadm.export.assembly import assemble, bake_image_io
    from adadm.export.limits import set_limits

    network = enlarging_edsr(1)
    set_limits(network, 3, {})
    save_checkpoint(folder / "edsr.safetensors", network)
    metadata = load_checkpoint(folder / "edsr.safetensors").metadata
    (folder / "edsr.safetensors").unlink()
    forms = {
        "whole": Options(),
        "unfolded": Options(fold="off", tail="original"),
        "unfolded-tail": Options(fold="off"),
        "inlined": Options(modulator="inline", opset=17),
        "static": Options(static=(1, 12, 14)),
        "images": Options(io="uint8"),
        "factors": Options(factors=True),
        "tiles": Options(stats="external"),
    }
    for name, options in forms.items():
        made = assemble(trace_like(network), metadata, options)
        models = {MODEL: made.model}
        if options.io == "uint8":
            models[MODEL] = bake_image_io(made.model, network, options)
        if made.tiles:
            models |= {"model.tile.onnx": made.tiles.tile, "model.moments.onnx": made.tiles.moments}
        (folder / name).mkdir()
        for file, model in models.items():
            for key, text in _NOTED.items():
                model.metadata_props.add(key=key, value=text)
            onnx.save(model, folder / name / file)
    for name, target in _LOWERED.items():
        (folder / name).mkdir()
        model = onnx.load(lowered_small(target, "int8" if name == "int8" else "fp16"))
        onnx.save(model, folder / name / MODEL)
    (folder / "foreign").mkdir()
    onnx.save(_foreign(from_text), folder / "foreign" / MODEL)


def _foreign(from_text: Callable[..., Any]) -> onnx.ModelProto:
    import numpy as np
    import onnx_ir as ir

    rng = np.random.default_rng(0)
    constants = {
        "W": rng.normal(0, 0.3, (6, 3, 3, 3)).astype(np.float32),
        "V": rng.normal(0, 0.3, (12, 6, 3, 3)).astype(np.float32),
        "B": rng.normal(0, 0.3, 12).astype(np.float32),
        **{name: rng.uniform(0.5, 1.5, 6).astype(np.float32) for name in "GTMS"},
    }
    body = """
        c = Conv <pads = [1, 1, 1, 1]> (lr, W)
        n = BatchNormalization <epsilon = 1e-5> (c, G, T, M, S)
        r = Relu (n)
        m = BatchNormalization (r, G, T, M, S)
        t = Conv <pads = [1, 1, 1, 1]> (m, V, B)
        sr = DepthToSpace <blocksize = 2, mode = "CRD"> (t)
    """
    proto: onnx.ModelProto = ir.to_proto(
        from_text(body, "float[N,3,H,W] lr", "float[N,3,P,Q] sr", constants, 17)
    )
    return proto


def mutate_model(data: bytes, rng: random.Random) -> bytes:
    """Change the wire format of a model, or its metadata, nodes, tensors, inputs and outputs."""
    kind = rng.random()
    if kind < 0.35:
        return mutate_protobuf(data, rng)
    model = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        changes = _OF_METADATA if kind < 0.65 else _OF_GRAPHS
        changes[rng.randrange(len(changes))](model, rng)
    return bytes(model.SerializeToString())


def _value_of_metadata(model: onnx.ModelProto, rng: random.Random) -> None:
    if not model.metadata_props:
        return
    entry = rng.choice(model.metadata_props)
    try:
        json.loads(entry.value)
        changed = mutate_json(entry.value.encode(), rng)
    except (ValueError, RecursionError):
        changed = mutate_json(json.dumps(entry.value).encode(), rng).strip(b'"')
    entry.value = changed.decode("utf-8", "replace")[:1_000_000]


def _number_of_metadata(model: onnx.ModelProto, rng: random.Random) -> None:
    names = ("upscale", "rgb_range", "smallest_area", "receptive_field", "io", "stats", "tail")
    texts = (
        *("", "0", "-1", "1", "2", "3", "4", "2.0", "2.5", "1e-320", "1e300", "-255", "NaN", "1"),
        *("255", "65535", "null", "true", "[]", "{}", "image", "uint8", "float32", "moments"),
        *("external", "10" * 40, "99999999", "2147483647"),
    )
    key = f"adadm.{rng.choice(names)}"
    kept_entries = [entry for entry in model.metadata_props if entry.key != key]
    kept_pairs = [(entry.key, entry.value) for entry in kept_entries]
    del model.metadata_props[:]
    for name, text in (*kept_pairs, (key, rng.choice(texts))):
        model.metadata_props.add(key=name, value=text)


def _name_of_metadata(model: onnx.ModelProto, rng: random.Random) -> None:
    if model.metadata_props:
        place = rng.randrange(len(model.metadata_props))
        if rng.random() < 0.5:
            del model.metadata_props[place]
        else:
            model.metadata_props[place].key += rng.choice(("x", " ", "é", "\0"))


def _operator(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    others = ("Identity", "Conv", "Relu", "Add", "Cast", "BatchNormalization", "DepthToSpace", "X")
    node.op_type = rng.choice((*others, _node(model, rng).op_type))
    if rng.random() < 0.1:
        node.domain = rng.choice(("ai.onnx", "adadm", "com.microsoft", "ai.onnx.ml"))


def _edge(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    names = [name for other in model.graph.node for name in (*other.input, *other.output)]
    side = rng.choice((node.input, node.output))
    change = rng.randrange(4)
    if change == 0 and side:
        side.pop(rng.randrange(len(side)))
    elif change == 1:
        side.append(rng.choice(names))
    elif side:
        side[rng.randrange(len(side))] = rng.choice((*names, "", "nowhere"))


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    node = next((n for _ in range(9) if (n := _node(model, rng)).attribute), None)
    if node is None:
        return
    attribute = rng.choice(node.attribute)
    change = rng.randrange(5)
    if change == 0:
        node.attribute.remove(attribute)
    elif change == 1:
        attribute.i = rng.choice((0, 1, 2, 3, -1, 7, 2**31, -(2**63)))
        attribute.type = rng.choice((attribute.type, onnx.AttributeProto.INT))
    elif change == 2:
        attribute.f = rng.choice((0.0, -1.0, 1e-5, 1e30, float("nan"), float("inf")))
        attribute.type = rng.choice((attribute.type, onnx.AttributeProto.FLOAT))
    elif change == 3 and attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice((0, 1, 2, 3, -1, 5, 2**40))
    else:
        attribute.ints.extend(rng.choices((0, 1, 2, 3), k=rng.choice((1, 2, 4))))
        attribute.type = onnx.AttributeProto.INTS


def _order(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = model.graph.node
    change = rng.randrange(3)
    node = onnx.NodeProto()
    node.CopyFrom(_node(model, rng))
    if change == 0:
        nodes.remove(node)
    else:
        nodes.insert(rng.randrange(len(nodes) + 1), node)


def _weights(model: onnx.ModelProto, rng: random.Random) -> None:
    if not model.graph.initializer:
        return
    tensor = rng.choice(model.graph.initializer)
    change = rng.randrange(7)
    if change == 0:
        model.graph.initializer.remove(tensor)
    elif change == 1 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice((0, 1, 2, 3, 16, 2**33, -1))
    elif change == 2:
        tensor.data_type = rng.choice((0, 1, 2, 3, 7, 8, 9, 10, 11, 16, 17, 22, 99))
    elif change == 3:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif change == 4:
        tensor.name = rng.choice(("", "x", rng.choice(model.graph.initializer).name))
    elif change == 5:
        tensor.ClearField("raw_data")
        tensor.string_data.extend([b"1"] * 4)
        tensor.data_type = onnx.TensorProto.STRING
    elif tensor.data_type == onnx.TensorProto.FLOAT:
        values = numpy_helper.to_array(tensor).copy()
        if values.size:
            values.flat[rng.randrange(values.size)] = rng.choice((0, -1, 1e-30, 1e6, -7.5))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _input_or_output(model: onnx.ModelProto, rng: random.Random) -> None:
    side = rng.choice((model.graph.input, model.graph.output))
    if not side:
        return
    value = rng.choice(side)
    tensor = value.type.tensor_type
    change = rng.randrange(8)
    if change == 0:
        value.name = rng.choice(("x", "", "sr", "lr", "std"))
    elif change == 1:
        tensor.elem_type = rng.choice((0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 16, 42))
    elif change == 2:
        tensor.ClearField("shape")
    elif change == 3:
        value.ClearField("type")
    elif change == 4:
        side.remove(value)
    elif change == 5:
        side.add().CopyFrom(rng.choice((*model.graph.input, *model.graph.output)))
    elif change == 6 and tensor.shape.dim:
        rng.choice(tensor.shape.dim).dim_value = rng.choice((0, 1, 2, 3, 12, 14, 24, 28, -1, 2**40))
    else:
        dimension = rng.choice(tensor.shape.dim) if tensor.shape.dim else tensor.shape.dim.add()
        dimension.dim_param = rng.choice(("N", "H", "W", "2*H", "3*W", "", "é" * 300))
        if rng.random() < 0.3:
            tensor.shape.dim.add().dim_value = 1


def _version(model: onnx.ModelProto, rng: random.Random) -> None:
    if rng.random() < 0.3:
        model.ir_version = rng.choice((0, 1, 3, 7, 11, 14, 2**40))
    elif model.opset_import:
        rng.choice(model.opset_import).version = rng.choice((0, 1, 6, 7, 12, 13, 17, 21, 24, 99))


def _function(model: onnx.ModelProto, rng: random.Random) -> None:
    if not model.functions:
        return
    function = rng.choice(model.functions)
    change = rng.randrange(4)
    if change == 0:
        model.functions.remove(function)
    elif change == 1 and function.node:
        function.node.pop(rng.randrange(len(function.node)))
    elif change == 2 and function.node:
        node = rng.choice(function.node)
        node.op_type = rng.choice(("Identity", "Mul", "Sqrt", function.name))
        node.domain = rng.choice(("", "adadm"))
    else:
        rng.choice((function.input, function.output, function.attribute)).append("extra")


def _node(model: onnx.ModelProto, rng: random.Random) -> onnx.NodeProto:
    nodes = model.graph.node
    node: onnx.NodeProto = rng.choice(nodes) if nodes else nodes.add()
    return node


_OF_METADATA = (_value_of_metadata, _value_of_metadata, _number_of_metadata, _name_of_metadata)
_OF_GRAPHS = (
    _operator,
    _edge,
    _edge,
    _attribute,
    _attribute,
    _order,
    _weights,
    _weights,
    _input_or_output,
    _input_or_output,
    _version,
    _function,
)


def mutate_case(files: Files, rng: random.Random) -> Files:
    """Change one model of a case."""
    name = rng.choice(sorted(files))
    return {**files, name: mutate_model(files[name], rng)}


def same_graph(one: bytes, other: bytes) -> bool:
    """Whether two models compute the same, as nothing in them differs but metadata."""
    graphs = []
    for content in (one, other):
        model = onnx.load_from_string(content)
        del model.metadata_props[:]
        graphs.append(model)
    return bool(graphs[0] == graphs[1])
