from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from _support.repeating_session import RepeatingSession
from adadm.runtime.upscaling import variants


@pytest.fixture
def model(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., RepeatingSession]:
    """Makes the one session that each `Upscaler("net.onnx")` opens."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "net.onnx").touch()
    monkeypatch.chdir(folder)

    def make(*arguments: Any, **metadata: Any) -> RepeatingSession:
        session = RepeatingSession(*arguments, **metadata)
        monkeypatch.setattr(variants, "open_session", lambda *_, **__: session)
        return session

    return make
