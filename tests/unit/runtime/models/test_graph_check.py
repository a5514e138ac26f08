"""What OpenVINO and TensorRT's parser crash on is refused before they see it."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx", reason="onnx is not installed")

from adadm.runtime.models.graph_check import check_well_formed

_HEAD = '<ir_version: 8, opset_import: ["": 17{imports}]> '


def model(body: str, functions: str = "", imports: str = "", sizes: str = "1, 4, 2, 2") -> bytes:
    import onnx

    graph = f"g (float[{sizes}] x) => (float[1, 1, 4, 4] y) "
    text = _HEAD.format(imports=imports) + graph + body + functions
    return bytes(onnx.parser.parse_model(text).SerializeToString())


def test_a_well_formed_graph_passes() -> None:
    check_well_formed(model("{ y = DepthToSpace<blocksize = 2>(x) }"), "export")


_CALLS = '<domain: "own", opset_import: ["own": 1]> f (a) => (b) { b = own.f(a) }'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (model("{ y = DepthToSpace<blocksize = 2>(z) z = Relu(x) }"), "topologically sorted"),
        (model("{ z = Relu(x) z = Relu(x) y = DepthToSpace<blocksize = 2>(z) }"), "SSA"),
        (model("{ z = Conv(x) y = DepthToSpace<blocksize = 2>(z) }"), "Conv.* input size 1"),
        (model("{ y = DepthToSpace<blocksize = -9223372036854775808>(x) }"), "Blocksize"),
        (model("{ y = own.f(x) }", _CALLS, ', "own": 1'), "recursive|Cycle"),
        (model("{ y = DepthToSpace<blocksize = 2>(x) }", sizes="1, 4, -1, 2"), "negative size"),
    ],
    ids=["order", "assigned-twice", "no-weight", "blocksize", "calls-itself", "negative-size"],
)
def test_a_graph_that_crashes_a_backend_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_well_formed(content, "export")
