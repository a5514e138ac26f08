from __future__ import annotations

import importlib.util

import pytest

from adadm.runtime import errors
from adadm.runtime.engines import tensorrt_api
from adadm.runtime.errors import AdadmError, MissingDependencyError, require


def test_one_tree_and_its_docstring_names_every_class() -> None:
    tree = [
        value
        for value in vars(errors).values()
        if value.__class__ is type and value.__module__ == errors.__name__
    ]
    assert len(tree) > 9
    for value in tree:
        assert issubclass(value, AdadmError)
        assert value.__name__ in (errors.__doc__ or "")


def test_a_missing_module_is_named_as_the_package() -> None:
    with pytest.raises(MissingDependencyError, match=r"no-such-thing is not .*deploy\[rtx\]'"):
        require("no_such_thing.inner", "rtx")


def test_tensorrt_is_named_where_it_is_missing() -> None:
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed")
    with pytest.raises(MissingDependencyError, match=r"deploy\[tensorrt\]'"):
        tensorrt_api.build_engine(b"", [], "tensorrt")
