from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from adadm.runtime.engines.weak_typing import WeakTyping, weak_flags
from adadm.runtime.errors import EngineError
from adadm.runtime.models.metadata import ModelMetadata

TYPING = WeakTyping(("FP16", "INT8"), ("a", "é"))


def test_a_lowered_model_says_what_the_builder_may_choose() -> None:
    lowered = ModelMetadata(quantization={"precision": "int8"}, float32_layers=["a", "é"])
    assert WeakTyping.of_model(lowered) == TYPING
    assert WeakTyping.of_model(ModelMetadata()) == WeakTyping(())


def test_a_manifest_says_it_too() -> None:
    assert WeakTyping.of_flags(weak_flags(TYPING)) == TYPING
    assert WeakTyping.of_flags(weak_flags(None)) is WeakTyping.of_flags({}) is None


def test_a_builder_is_told() -> None:
    layers = [SimpleNamespace(name=name, precision=None) for name in "abc"]
    network = Mock(num_layers=3, get_layer=layers.__getitem__)
    trt, config = Mock(), Mock()
    TYPING.configure(trt, network, config)
    flags = trt.BuilderFlag
    told = [call.args[0] for call in config.set_flag.call_args_list]
    assert told == [flags.FP16, flags.INT8, flags.OBEY_PRECISION_CONSTRAINTS]
    assert [layer.precision for layer in layers] == [trt.float32, None, None]
    with pytest.raises(EngineError, match=r"has none of the 1 layers .* such as x: the parser"):
        WeakTyping((), ("x",)).configure(trt, network, config)
