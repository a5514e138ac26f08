"""`auto` takes the backend that is the faster on this machine, as far as it was timed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from adadm.runtime import backends
from adadm.runtime.backends import open_session
from adadm.runtime.errors import SessionError
from adadm.runtime.records import read_record, write_record
from adadm.runtime.sessions.session import Session, Timing
from adadm.runtime.sessions.timing import time_backends, timing_file

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("openvino", reason="openvino is not installed")

MODEL = (resources.files("adadm.runtime.models") / "edsr_adadm_x2.onnx").read_bytes()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(backends, "time_backends", time_backends)
    return timing_file(MODEL, 0)


@pytest.fixture
def sessions() -> Iterator[dict[str, Session]]:
    opened = {name: open_session(MODEL, name, threads=1) for name in ("openvino", "cpu")}
    yield opened
    for session in opened.values():
        session.close()


def test_every_backend_is_timed_on_one_image(sessions: dict[str, Session]) -> None:
    timing = time_backends(sessions)
    assert timing is not None
    assert timing.seconds.keys() == {"openvino", "cpu"}
    assert all(0 < seconds < 60 for seconds in timing.seconds.values())
    assert timing.height == timing.width and timing.width in (48, 160)


@pytest.mark.parametrize("fastest", ["cpu", "openvino"])
def test_what_was_timed_is_taken_and_not_timed_again(
    fastest: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Timing(48, 48, {"cpu": 0.2, "openvino": 0.2, fastest: 0.1})
    write_record(cache, known)
    monkeypatch.setattr(backends, "time_backends", lambda _: pytest.fail("timed again"))
    with open_session(MODEL, "auto") as session:
        assert (session.backend, session.timing) == (fastest, known)


@pytest.mark.parametrize("fastest", ["cpu", "openvino"])
def test_the_fastest_is_opened_and_noted_and_the_other_closed(
    fastest: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: dict[str, Session] = {}

    def times(sessions: dict[str, Session]) -> Timing:
        timed.update(sessions)
        return Timing(160, 160, {"cpu": 0.2, "openvino": 0.2, fastest: 0.1})

    monkeypatch.setattr(backends, "time_backends", times)
    with open_session(MODEL, "auto") as session:
        assert session is timed[fastest] and session.backend == fastest
        assert session.run({"lr": np.ones((1, 3, 4, 4), np.float32)})["sr"].shape == (1, 3, 8, 8)
        assert session.timing == read_record(Timing, cache, pytest.fail)
    (other,) = (opened for name, opened in timed.items() if name != fastest)
    with pytest.raises(SessionError, match="closed"):
        other.run({"lr": np.ones((1, 3, 4, 4), np.float32)})


def test_a_backend_that_is_alone_is_not_timed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> Session:
        raise SessionError("not here")

    monkeypatch.setitem(backends.BACKENDS, "openvino", absent)
    with open_session(MODEL, "auto") as session:
        assert (session.backend, session.timing) == ("cpu", None)
    assert not cache.exists()


def test_without_time_the_order_is_fixed(cache: Path) -> None:
    with open_session(MODEL, "auto", may_time=False) as session:
        assert (session.backend, session.timing) == ("openvino", None)
    assert not cache.exists()


def test_a_damaged_record_is_timed_again(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text('{"sha256": "0", "content": {"seconds": {"cpu": 1e-9}}}')
    with open_session(MODEL, "auto") as session:
        assert session.timing is not None and session.timing.seconds["cpu"] > 1e-9
        assert read_record(Timing, cache, pytest.fail) == session.timing


def test_a_named_backend_is_not_timed(cache: Path) -> None:
    with open_session(MODEL, "cpu") as session:
        assert (session.backend, session.timing) == ("cpu", None)
    assert not cache.exists()


def test_models_threads_and_machines_have_times_of_their_own(cache: Path) -> None:
    assert len({cache, timing_file(MODEL, 1), timing_file(MODEL + b"\0", 0)}) == 3
