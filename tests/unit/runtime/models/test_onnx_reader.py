from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adadm.runtime.errors import EngineError
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.models.onnx_reader import checked_onnx, has_negative_sizes, read_onnx
from adadm.runtime.models.tensor_spec import TensorSpec

BUNDLED = sorted(Path(str(files("adadm.runtime.models"))).glob("*.onnx"))
bundled = pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)

REFUSED = (
    "is (not a complete ONNX model: .*; copy or export it again$|"
    "empty; copy or download it again$|a web page, not the file itself; download it again)"
)


@pytest.fixture
def onnx() -> Any:
    return pytest.importorskip("onnx", reason="onnx is not installed")


# A writer of the wire format, so that these tests run where a device runs them: without onnx.


def varint(value: int) -> bytes:
    """As protobuf writes it: 7 bits a byte, negative numbers in 64 bits."""
    value &= (1 << 64) - 1
    low = bytearray()
    while value > 0x7F:
        low.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*low, value])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def pair(key: str, value: str | int) -> bytes:
    """Of metadata and of external data; also a domain with its opset."""
    return field(1, key) + field(2, value)


def value_info(name: str, element: int, *dims: int | str | None) -> bytes:
    listed = b"".join(
        field(1, b"" if dim is None else field(1 if isinstance(dim, int) else 2, dim))
        for dim in dims
    )
    tensor = field(1, element) + field(2, listed)
    return field(1, name) + field(2, field(1, tensor))


VERSION = field(1, 10)
OPSET = field(8, pair("", 17))
LR, SR = value_info("lr", 1, "N", 3, "H", "W"), value_info("sr", 1, "N", 3, None, None)
IN, OUT = field(11, LR), field(12, SR)
METADATA = field(14, pair("adadm.upscale", "2"))


def around(graph: bytes) -> bytes:
    """A model without metadata."""
    return VERSION + field(7, graph) + OPSET


def node(op_type: str, domain: str) -> bytes:
    return field(1, field(4, op_type) + field(7, domain))


def outside(location: str) -> bytes:
    """A tensor that is kept in another file."""
    return field(8, "kept") + field(13, pair("location", location))


MODEL = around(IN + OUT) + METADATA


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "m.onnx"


def test_a_model_is_read_without_the_onnx_package(model: Path) -> None:
    model.write_bytes(MODEL)
    found = read_onnx(str(model))
    assert found.path == model and found.content == MODEL
    assert found.sha256 == hashlib.sha256(MODEL).hexdigest()
    assert found.metadata == ModelMetadata(upscale=2)
    assert found.inputs == [TensorSpec("lr", ("N", 3, "H", "W"), np.dtype(np.float32))]
    assert found.outputs == [TensorSpec("sr", ("N", 3, None, None), np.dtype(np.float32))]
    assert found.opset == 17 and not found.has_functions


@pytest.mark.parametrize(
    "graph",
    [
        IN + OUT + field(1, field(1, b"\xff")),
        IN + OUT + field(1, field(3, b"\xc3")),
        IN + OUT + field(5, field(8, b"\xff")),
        IN + OUT + field(13, field(1, b"\xff")),
        field(11, value_info("lr", 1, 1, 3, 4, 5).replace(b"lr", b"l\xff")) + OUT,
    ],
)
def test_names_that_are_not_text_are_refused(graph: bytes, model: Path) -> None:
    model.write_bytes(around(graph))
    for read in (read_onnx, checked_onnx):
        with pytest.raises(EngineError, match=REFUSED):
            read(model)


@pytest.mark.parametrize("said", ["3", "2.5", "-1"])
def test_metadata_that_contradicts_the_graph_is_refused(said: str, model: Path) -> None:
    tensors = field(11, value_info("lr", 1, 1, 3, 4, 5)) + field(
        12, value_info("sr", 1, 1, 3, 8, 10)
    )
    model.write_bytes(around(tensors) + METADATA)
    assert read_onnx(model).metadata.upscale == 2
    model.write_bytes(around(tensors) + field(14, pair("adadm.upscale", said)))
    with pytest.raises(EngineError, match=r"upscale.*; export it again$"):
        read_onnx(model)


def compare(onnx: Any, path: Path) -> None:
    """With what the onnx package reads."""
    proto = onnx.load(path)
    found = read_onnx(path)
    assert found.content == path.read_bytes()
    assert found.metadata.to_props() == {e.key: e.value for e in proto.metadata_props}
    (opset,) = (i.version for i in proto.opset_import if i.domain in ("", "ai.onnx"))
    assert (found.opset, found.has_functions) == (opset, len(proto.functions) > 0)
    constants = {tensor.name for tensor in proto.graph.initializer}
    fed = [value for value in proto.graph.input if value.name not in constants]
    for ours, theirs in ((found.inputs, fed), (found.outputs, proto.graph.output)):
        assert [spec.name for spec in ours] == [value.name for value in theirs]
        for spec, value in zip(ours, theirs, strict=True):
            tensor = value.type.tensor_type
            assert spec.dtype == onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            assert spec.shape == tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
                for dim in tensor.shape.dim
            )


@bundled
def test_the_bundled_models_are_read_as_onnx_reads_them(onnx: Any, path: Path) -> None:
    compare(onnx, path)
    assert read_onnx(path).has_functions  # or the comparison shows less than it seems


def test_all_types_and_kinds_of_dimension_are_read_as_onnx_reads_them(
    onnx: Any, model: Path
) -> None:
    types = ["FLOAT16", "FLOAT", "UINT8", "INT8", "INT32", "INT64", "BOOL"]
    shapes = [[], [0], [1, 3], ["N", 3, None, None], ["größe", 2**40], [None], [127, 128, 300]]
    values = [
        onnx.helper.make_tensor_value_info(f"in {name} é", getattr(onnx.TensorProto, name), shape)
        for name, shape in zip(types, shapes, strict=True)
    ]
    nodes = [onnx.helper.make_node("Identity", [v.name], [f"out {v.name}"]) for v in values]
    outs = [
        onnx.helper.make_tensor_value_info(
            f"out {v.name}",
            v.type.tensor_type.elem_type,
            shape,
        )
        for v, shape in zip(values, shapes, strict=True)
    ]
    weight = onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32), "weight")
    listed = onnx.helper.make_tensor_value_info("weight", onnx.TensorProto.FLOAT, [6])
    graph = onnx.helper.make_graph(nodes, "all", [listed, *values], outs, [weight])
    opsets = [onnx.helper.make_opsetid("other", 300), onnx.helper.make_opsetid("ai.onnx", 19)]
    proto = onnx.helper.make_model(graph, opset_imports=opsets)
    onnx.helper.set_model_props(proto, {"größe": "ä" * 300, "empty": "", "line": "a\nb"})
    onnx.save(proto, model)
    compare(onnx, model)


def branching(onnx: Any, inside: Any, in_function: Any) -> Any:
    """A model with a tensor in a branch, and one in the body of a function."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    branches = {
        name: helper.make_graph(
            [helper.make_node("Constant", [], [name], value=inside)],
            name,
            [],
            [helper.make_tensor_value_info(name, kind, [2])],
        )
        for name in ("then_branch", "else_branch")
    }
    nodes = [
        helper.make_node("If", ["choice"], ["chosen"], **branches),
        helper.make_node("Shift", ["chosen"], ["sr"], domain="adadm"),
    ]
    body = [
        helper.make_node("Constant", [], ["by"], value=in_function),
        helper.make_node("Add", ["x", "by"], ["y"]),
    ]
    opset = helper.make_opsetid("", 17)
    function = helper.make_function("adadm", "Shift", ["x"], ["y"], body, [opset])
    graph = helper.make_graph(
        nodes,
        "branching",
        [helper.make_tensor_value_info("choice", onnx.TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("sr", kind, [2])],
    )
    imports = [opset, helper.make_opsetid("adadm", 1)]
    proto = helper.make_model(graph, opset_imports=imports, functions=[function])
    onnx.checker.check_model(proto)
    return proto


def weight(onnx: Any, name: str, location: str | None = None) -> Any:
    tensor = onnx.numpy_helper.from_array(np.zeros(2, np.float32), name)
    if location:
        onnx.external_data_helper.set_external_data(tensor, location)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
    return tensor


def test_subgraphs_and_functions_are_read_as_onnx_reads_them(onnx: Any, model: Path) -> None:
    onnx.save(branching(onnx, weight(onnx, "a"), weight(onnx, "b")), model)
    compare(onnx, model)
    assert read_onnx(model).has_functions


@pytest.mark.parametrize("location", ["weights.bin", "../../x", "/etc/passwd"])
def test_weights_in_another_file_are_refused(onnx: Any, model: Path, location: str) -> None:
    clean, kept = weight(onnx, "a"), weight(onnx, "kept", location)
    in_graph = branching(onnx, clean, clean)
    in_graph.graph.initializer.append(kept)
    in_branch, in_body = (branching(onnx, clean, clean) for _ in range(2))
    for attribute in in_branch.graph.node[0].attribute:
        attribute.g.node[0].attribute[0].t.CopyFrom(kept)
    in_body.functions[0].node[0].attribute[0].t.CopyFrom(kept)
    for proto in (in_graph, in_branch, in_body):
        model.write_bytes(proto.SerializeToString())
        with pytest.raises(
            EngineError,
            match=f"m.onnx: .*, got the tensor kept in another file, {location}\\. Save",
        ):
            read_onnx(model)


def test_the_remedy_for_weights_in_another_file_works(onnx: Any, model: Path) -> None:
    proto = branching(onnx, weight(onnx, "a"), weight(onnx, "b"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(999, np.float32), "big"))
    onnx.save(proto, model, save_as_external_data=True, size_threshold=0, location="big.bin")
    with pytest.raises(EngineError, match=r"another file, big.bin. .* one file: ") as refusal:
        read_onnx(model)
    exec(str(refusal.value).split("one file: ")[1], {"onnx": onnx})
    compare(onnx, model)


HALF_REFERENCES = [
    (field(14, 1), r"\(not named\)"),
    (field(13, pair("location", "../../x")), "../../x"),  # though it is not said to be external
    (field(13, pair("offset", "0")) + field(14, 1 << 32 | 1), r"\(not named\)"),
]


def nested(graph: bytes) -> bytes:
    """In subgraphs deeper than Python calls may go."""
    for _ in range(3000):
        graph = field(1, field(5, field(6, graph)))
    return graph


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        *(
            (around(IN + OUT + place), rf"\(unnamed\) in another file, {found}\. Save")
            for tensor, found in HALF_REFERENCES
            for place in (field(5, tensor), field(15, field(1, tensor)))  # the latter is sparse
        ),
        *(  # of a training
            (MODEL + field(20, field(at, field(5, outside("/etc/passwd")))), "file, /etc/passwd")
            for at in (1, 2)
        ),
        (around(IN + OUT + nested(field(5, outside("../../x")))), r"in another file, \.\./\.\./x"),
        # its TensorRT provider would load the engine, and an engine is code
        (
            around(IN + OUT + node("EPContext", "com.microsoft")),
            "contains another program's engine",
        ),
    ],
)
def test_what_reaches_outside_of_a_model_is_refused(
    model: Path, content: bytes, reason: str
) -> None:
    model.write_bytes(content)
    with pytest.raises(EngineError, match=rf"m\.onnx: .*{reason}"):
        read_onnx(model)


def test_what_a_backend_may_see_is_the_same_bytes(model: Path) -> None:
    model.write_bytes(MODEL)
    assert checked_onnx(model) == checked_onnx(MODEL) == MODEL
    patch = field(7, field(12, value_info("factor_0", 1, "N")))
    assert checked_onnx(MODEL + patch) == MODEL + patch
    call = around(IN + OUT + node("Modulate", "adadm"))
    assert checked_onnx(call, needs_bodies=False) == call
    with pytest.raises(
        EngineError, match=r"the model is not a complete ONNX model.* lacks the body of adadm"
    ):
        checked_onnx(call)


def test_a_patch_is_checked_like_the_model(model: Path) -> None:
    """protobuf merges both."""
    for patch in (field(7, field(5, outside("*/_ORT_MEM_ADDR_/*"))), field(8, pair("", 1 << 62))):
        with pytest.raises(EngineError, match=r"the model(: expected all| is not a complete ONNX)"):
            checked_onnx(MODEL + patch)


def borders(content: bytes) -> Iterator[int]:
    """Where the top-level fields begin; told by the writer above, not by the reader under test."""
    at = 0
    while at < len(content):
        yield at
        numbers = []
        for _ in range(2):  # the tag, then a number or a length
            shift = value = 0
            while True:
                byte = content[at]
                at += 1
                value |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            numbers.append(value)
        at += numbers[1] if numbers[0] & 7 == 2 else 0


@bundled
def test_a_bundled_model_that_was_cut_off_is_refused(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    at_borders = list(borders(content))
    assert len(at_borders) > 20  # the metadata, among others
    tail = range(len(content) - 40, len(content))
    chance = random.Random(0)
    anywhere = [chance.randrange(len(content)) for _ in range(40)]
    cut = tmp_path / path.name
    for length in [*range(40), *at_borders, *(b + 1 for b in at_borders), *tail, *anywhere]:
        cut.write_bytes(content[:length])
        with pytest.raises(EngineError, match=REFUSED):
            read_onnx(cut)


def test_every_cut_of_a_small_model_is_refused_or_loses_metadata_alone(model: Path) -> None:
    model.write_bytes(MODEL)
    whole = read_onnx(model)
    without = len(MODEL) - len(METADATA)
    for length in range(len(MODEL)):
        model.write_bytes(MODEL[:length])
        if length == without:  # the format cannot tell; the docstring says so
            found = read_onnx(model)
            assert not found.metadata.to_props() and found.sha256 != whole.sha256
            assert (found.inputs, found.outputs) == (whole.inputs, whole.outputs)
            continue
        with pytest.raises(EngineError, match=REFUSED):
            read_onnx(model)


def test_foreign_bytes_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (9, 7), (1, 2, 3)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("An engine is built from an ONNX model.\n" * 9)
    (tmp_path / "a.html").write_text("<html>Not found</html>")
    (tmp_path / "zeros").write_bytes(bytes(4096))
    for seed in range(500):
        content = random.Random(seed).randbytes(1 + seed * 4)
        (tmp_path / f"random {seed}").write_bytes(content)
    for path in tmp_path.iterdir():
        with pytest.raises(EngineError, match=f"^{tmp_path}/{path.name} {REFUSED}"):
            read_onnx(path)


def test_what_passes_of_damaged_bytes_is_read_as_onnx_reads_it(onnx: Any, model: Path) -> None:
    refused = 0
    for place in range(len(MODEL)):
        for bit in range(8):
            damaged = bytearray(MODEL)
            damaged[place] ^= 1 << bit
            model.write_bytes(damaged)
            try:
                read_onnx(model)
            except EngineError:
                refused += 1
            else:
                compare(onnx, model)
    assert len(MODEL) < refused < 8 * len(MODEL)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (field(7, IN + OUT) + OPSET, "it has no ir_version"),
        (VERSION + OPSET, "it has no graph"),
        (VERSION + field(7, IN + OUT), r"one opset of the default domain, got \[\]"),
        (MODEL + OPSET, r"one opset of the default domain, got \[17, 17\]"),
        (
            VERSION + field(7, IN + OUT) + field(8, pair("adadm", 1)),
            r"opset of the default domain, got \[\]",
        ),
        (VERSION + field(7, IN + OUT) + field(8, field(1, "")), "of the domain ai.onnx, got 0"),
        *(
            (VERSION + field(7, IN + OUT) + field(8, pair("", version)), f"ai.onnx, got {version};")
            for version in (1 << 62, 1001, -5)
        ),
        (MODEL + field(8, pair("com.microsoft", 1 << 62)), "of the domain com.microsoft"),
        (
            MODEL + field(25, field(9, pair("", 1 << 62))),
            "expected opset 1 to 1000 of the domain ai.onnx",
        ),
        (around(IN), "its graph has no outputs"),
        (MODEL + MODEL, "field 1: expected a single number"),
        (MODEL + field(7, IN + OUT), "field 7: expected once, got 2 times"),
        (MODEL + METADATA, "its metadata has a name twice"),
        (MODEL + field(14, b"\x0a\x02\xff\xfe"), "can't decode byte 0xff"),
        (field(1, "10") + MODEL[len(VERSION) :], "field 1: expected a single number"),
        (VERSION + field(7, 3) + OPSET, "field 7: expected bytes, got a number"),
        (MODEL + b"\x0b", "number 1 or wire type 3"),
        (MODEL + b"\x07", "number 0 or wire type 7"),
        (MODEL + varint(1 << 32 | 7 << 3 | 2) + b"\0", "number 536870919 or wire type 2"),
        (MODEL + b"\xff" * 12, "a number of more than 10 bytes"),
        (MODEL + b"\xff", "it ends within a number"),
        (MODEL + b"\xa9\x06" + bytes(7), "field 101: expected 8 bytes, got 7"),
        (MODEL + b"\xad\x06" + bytes(3), "field 101: expected 4 bytes, got 3"),
        (MODEL + field(101, b"1234")[:-1], "field 101: expected 4 bytes, got 3"),
        (around(IN + OUT + node("Modulate", "adadm")), "it lacks the body of adadm::Modulate"),
    ],
)
def test_what_is_no_whole_model_is_refused(model: Path, content: bytes, reason: str) -> None:
    model.write_bytes(content)
    with pytest.raises(EngineError, match=reason) as refusal:
        read_onnx(model)
    assert str(refusal.value).startswith(f"{model} is not a complete ONNX model: ")


def test_unknown_fields_of_each_wire_type_are_passed_over(model: Path) -> None:
    foreign = b"\xa8\x06\x01" + b"\xa9\x06" + bytes(8) + b"\xad\x06" + bytes(4) + field(102, "more")
    model.write_bytes(foreign + MODEL + foreign)
    assert read_onnx(model).opset == 17


def test_a_custom_operator_of_another_domain_needs_no_body(model: Path) -> None:
    model.write_bytes(around(IN + OUT + node("Other", "com.example")))
    assert not read_onnx(model).has_functions


def test_negative_sizes_are_seen_in_every_shape() -> None:
    negative = value_info("t", 1, 1, -1)
    assert not has_negative_sizes(MODEL)
    for number in (11, 12, 13):
        assert has_negative_sizes(around(IN + OUT + field(number, negative)))


def test_a_negative_dimension_is_free(model: Path) -> None:
    model.write_bytes(around(field(11, LR) + field(12, value_info("sr", 10, -1, 0, ""))))
    (spec,) = read_onnx(model).outputs
    assert spec == TensorSpec("sr", (None, 0, None), np.dtype(np.float16))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        *(
            (
                OUT + field(11, value_info("lr", element, 2)),
                f"the input lr: expected one of float16, .*, got {name}; cast",
            )
            for element, name in ((16, "bfloat16"), (99, "the unknown type 99"), (-1, ".* -1"))
        ),
        *(
            (
                IN + field(12, field(1, "sr") + kind),
                f"the output sr: expected a tensor of known rank, got {name}; decl",
            )
            for kind, name in (
                (b"", "no tensor"),
                (field(2, field(4, b"")), "no tensor"),  # a sequence
                (field(2, field(1, field(1, 1))), "a tensor without a shape"),
            )
        ),
    ],
)
def test_values_of_other_types_and_of_no_rank_are_named(
    model: Path, graph: bytes, message: str
) -> None:
    model.write_bytes(around(graph))
    with pytest.raises(EngineError, match=f"m.onnx: {message}"):
        read_onnx(model)


def test_the_names_of_the_element_types_are_those_of_onnx(onnx: Any, model: Path) -> None:
    words = {"FLOAT": "float32", "DOUBLE": "float64"}
    known = {"FLOAT16", "FLOAT", "UINT8", "INT8", "INT32", "INT64", "BOOL"}
    for name, number in onnx.TensorProto.DataType.items():
        if name in known or number > 23:
            continue
        model.write_bytes(around(field(12, value_info("y", number, 2))))
        word = words.get(name, name.lower())
        with pytest.raises(EngineError, match=rf"the output y: expected .*, got {word};"):
            read_onnx(model)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match=r"/no\.onnx cannot be read: No such file .*; expected an ONNX model"
    ):
        read_onnx(tmp_path / "no.onnx")
    with pytest.raises(EngineError, match=rf"^{tmp_path} cannot be read: Is a directory"):
        read_onnx(tmp_path)
