from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from adadm.runtime.errors import EngineError
from adadm.runtime.models.metadata import ModelMetadata
from adadm.runtime.models.tensor_spec import Shape, TensorSpec

ROOT = Path(__file__).parents[4]

PROPS = {
    "adadm.version": "0.1.0",
    "adadm.fold": "exact",
    "adadm.tail": "collapsed",
    "adadm.io": "uint8",
    "adadm.batch_normalizations": '[{"node": "bn", "form": null, "reason": "é"}]',
    "adadm.receptive_field": "image",
    "adadm.architecture": "edsr",
    "adadm.upscale": "2",
    "adadm.rgb_range": "255",
    "adadm.smallest_area": "1",
    "adadm.hyperparameters": '{"res_scale": {"source": "file", "value": 0.1}}',
    "adadm.checkpoint_sha256": "ab",
    "adadm.stats": "internal",
    "adadm.memory": '{"cpu": [35000000, 1500], "openvino": [89000000, 1200]}',
    "adadm.halo_errors": "[[0, 35.0], [16, 0.5]]",
    "adadm.float32_layers": '["a", "b"]',
    "adadm.quantization": '{"factor_scales": [0.5], "precision": "int8", "target": "cpu"}',
    "adadm.channel_maps": '{"body.0":[1.0,[0.5,-0.25]]}',
    "adadm.later": "of a version to come",
    "other.tool": "ä",
}  # in the order of the fields

LOWERED = '{"precision": "fp16", %s}'


def test_every_key_is_read_and_written_as_it_was() -> None:
    metadata = ModelMetadata.from_props(PROPS)
    written = metadata.to_props()
    assert list(written) == list(PROPS)
    readable = {key: text.replace(r"\u00e9", "é") for key, text in written.items()}
    assert readable == PROPS
    assert (metadata.upscale, metadata.rgb_range, metadata.is_uint8) == (2, 255.0, True)
    assert metadata.memory == {"cpu": (35_000_000, 1500), "openvino": (89_000_000, 1200)}
    assert metadata.halo_errors == [(0, 35.0), (16, 0.5)]
    assert (metadata.precision, metadata.target) == ("int8", "cpu")
    assert metadata.factor_scales == [0.5]
    assert metadata.network.architecture == "edsr"
    assert metadata.network.to_props() == written
    assert metadata.reach is None and ModelMetadata(receptive_field="0").reach == 0


def test_a_model_of_another_tool_says_nothing_of_ours() -> None:
    foreign = ModelMetadata.from_props({"onnx.quant": "x"})
    assert foreign == ModelMetadata(others={"onnx.quant": "x"})
    assert foreign.to_props() == {"onnx.quant": "x"}
    assert (foreign.precision, foreign.target, foreign.factor_scales) == ("float32", None, [])
    assert not foreign.is_uint8
    assert foreign.missing("io", "upscale") == ["adadm.io", "adadm.upscale"]
    with pytest.raises(EngineError, match=r"lacks adadm\.upscale, adadm\.rgb_range"):
        _ = foreign.network


@pytest.mark.parametrize(
    ("key", "text", "problem"),
    [
        ("upscale", "two", "upscale: expected an integer, got 'two'"),
        ("rgb_range", "white", "rgb_range: expected a number, got 'white'"),
        ("memory", '{"cpu": 3}', "memory.cpu: expected a list of 2 integers, got 3"),
        ("halo_errors", "[1]", "halo_errors.0: expected a list of 2 integers, got 1"),
        ("quantization", "[]", "quantization: expected an object, got []"),
        ("float32_layers", "[", "float32_layers: expected a list of texts, got '['"),
        ("quantization", '{"": ' * 1000, "quantization: expected an object, got "),
        ("rgb_range", "1e999", "rgb_range: expected a number, got '1e999'"),
        *(
            (name, text, f"{name}: expected a number from {least} to {most}, got {text}")
            for name, least, most, texts in (
                ("upscale", "1", "64", ("0", "-2", "65")),
                ("rgb_range", "1e-06", "1e+06", ("0", "-255", "1e-320", "1e+30")),
                ("smallest_area", "1", "2.14748e+09", ("0", "-1")),
            )
            for text in texts
        ),
        ("upscale", "2.5", "upscale: expected an integer, got 2.5"),
        ("upscale", "null", "upscale: expected an integer, got 'null'"),
        ("receptive_field", "-1", "receptive_field: expected image, or a distance in px, got '-1'"),
        ("memory", '{"cpu": [-1, 2]}', "memory.cpu.0: expected a number from 0 to"),
        ("halo_errors", "[[-1, 2]]", "halo_errors.0.0: expected a number from 0 to"),
        ("halo_errors", "[[1, -2]]", "halo_errors.0.1: expected a number from 0 to"),
        ("limits", '{"body": 0}', "limits.body: expected a number from 1e-30 to 1e+30, got 0"),
        ("io", "int8", "io: expected 'float32' or 'uint8', got 'int8'"),
        ("stats", "", "stats: expected 'internal' or 'external' or 'moments', got ''"),
        ("quantization", "{}", "quantization: expected precision, 'fp16' or 'int8', got none"),
        ("quantization", LOWERED % '"target": []', "quantization.target: expected a text, got []"),
        ("quantization", LOWERED % '"target": "x"', "quantization.target: expected the name of a"),
        (
            "quantization",
            LOWERED % '"factor_scales": [-1]',
            "quantization.factor_scales.0: expected",
        ),
        ("hyperparameters", '{"a": {"value": 1}}', "hyperparameters.a: expected source, 'tensors'"),
        (
            "batch_normalizations",
            '[{"node": "a"}]',
            "batch_normalizations.0: expected form, a text",
        ),
        *(
            ("channel_maps", f'{{"a": {both}}}', "channel_maps.a: expected a scale and an offset,")
            for both in ("[1]", "[1, [[2]]]", "[1, []]", "[[1, 2], [1, 2, 3]]", "[1e300, 0]")
        ),
    ],
)
def test_an_invalid_value_is_refused_by_its_key(key: str, text: str, problem: str) -> None:
    with pytest.raises(EngineError) as refusal:
        ModelMetadata.from_props({f"adadm.{key}": text}, "x2.onnx")
    assert str(refusal.value).startswith(f"x2.onnx: metadata: {problem}")
    assert str(refusal.value).endswith("; export it again") and len(str(refusal.value)) < 200


def test_models_for_tiles_belong_to_one_checkpoint_and_one_lowering() -> None:
    whole = ModelMetadata(
        checkpoint_sha256="ab", quantization={"precision": "fp16"}, stats="internal"
    )
    assert ModelMetadata(checkpoint_sha256="ab", quantization={"precision": "fp16"}).difference(
        whole
    ) == ("")
    assert "another checkpoint" in ModelMetadata(checkpoint_sha256="cd").difference(whole)
    assert "lowered differently" in ModelMetadata(checkpoint_sha256="ab").difference(whole)


def test_contradictions_are_of_what_both_say() -> None:
    two, four = ModelMetadata(upscale=2, rgb_range=1), ModelMetadata(upscale=4, stats="internal")
    names = ("upscale", "rgb_range", "stats")
    assert two.contradictions(four, *names) == ["upscale 2, not 4"]
    assert two.contradictions(two, *names) == []


def test_no_other_source_knows_a_key() -> None:
    names = "|".join(key.removeprefix("adadm.") for key in PROPS if key.startswith("adadm."))
    key = re.compile(rf"""["']adadm\.({names})["']""")
    for layer in ("runtime", "export", "calibration", "deployment", "scripts"):
        for path in (ROOT / layer).rglob("*.py"):
            assert not key.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    ("lr", "sr", "contradicts"),
    [
        ((1, 3, 8, 9), (1, 3, 16, 18), False),
        (("N", 3, "H", "W"), (None, 3, "2*H", "2*W"), False),
        ((1, 3, 8, None), (1, 3, 16, "W"), False),
        (("N", 3, "H", "W"), (None, 3, "a", "3*W"), True),
        (("N", 3, "H", "W"), (None, 3, "3*a", "3*b"), False),
        ((1, 3, 8, 9), (1, 3, 8, 9), True),
        ((1, 3, 8, 9), (1, 3, 32, 36), True),
        ((1, 3, None, 9), (1, 3, None, 27), True),
        ((1, 1, None, None), (1, 1, None, None), True),
        ((1, 8, 9, 3), (1, 16, 18, 3), True),
        ((3, 8, 9), (3, 16, 18), True),
        ((1, 3, 8, 9), (3, 16, 18), True),
        ((1, 3, 8, 9), (2, 3, 16, 18), True),
    ],
)
def test_shapes_are_those_of_the_factor(lr: Shape, sr: Shape, *, contradicts: bool) -> None:
    inputs, outputs = ([TensorSpec(n, s, np.dtype("f4"))] for n, s in (("lr", lr), ("sr", sr)))
    metadata = ModelMetadata(upscale=2)
    if contradicts:
        with pytest.raises(
            EngineError, match=r"x2\.onnx: its metadata says io None, upscale 2, so "
        ):
            metadata.check_tensors(inputs, outputs, "x2.onnx")
    else:
        metadata.check_tensors(inputs, outputs, "x2.onnx")
    ModelMetadata().check_tensors(inputs, outputs, "of another tool")


def test_types_are_those_of_the_images() -> None:
    for io, dtype, shape in (("uint8", "u1", (1, None, 7, 3)), ("float32", "f4", (1, 3, 7, None))):
        specs = [TensorSpec("lr", shape, np.dtype(dtype))]
        other = [TensorSpec("lr", shape, np.dtype("f2"))]
        noted = ModelMetadata.from_props({"adadm.io": io, "adadm.upscale": "3"})
        noted.check_tensors(specs, [], "x3.onnx")
        with pytest.raises(EngineError, match=rf"expected lr {io} \(.*\), got lr float16 \("):
            noted.check_tensors(other, [], "x3.onnx")
        with pytest.raises(EngineError, match=rf"expected sr {io} \(.*21.*\), got sr {io} \("):
            noted.check_tensors(specs, [TensorSpec("sr", shape, np.dtype(dtype))], "x3.onnx")
