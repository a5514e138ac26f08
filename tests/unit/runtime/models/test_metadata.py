from __future__ import annotations

import re
from pathlib import Path

import pytest

from adadm.runtime.errors import EngineError
from adadm.runtime.models.metadata import ModelMetadata

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
    ],
)
def test_an_invalid_value_is_refused_by_its_key(key: str, text: str, problem: str) -> None:
    with pytest.raises(EngineError) as refusal:
        ModelMetadata.from_props({f"adadm.{key}": text}, "x2.onnx")
    assert str(refusal.value).startswith(f"x2.onnx: metadata: {problem}")
    assert str(refusal.value).endswith("; export it again") and len(str(refusal.value)) < 200


def test_models_for_tiles_belong_to_one_checkpoint_and_one_lowering() -> None:
    whole = ModelMetadata(checkpoint_sha256="ab", quantization={"target": "cpu"}, stats="internal")
    assert ModelMetadata(checkpoint_sha256="ab", quantization={"target": "cpu"}).difference(
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
