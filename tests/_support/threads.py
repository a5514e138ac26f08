"""Calls that must end, where threads wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FOREVER_S = 20


def within_time(call: Callable[[], T]) -> T:
    """What a call returns or raises; fails, rather than hangs, when it does not end."""
    results: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(FOREVER_S)
    assert not thread.is_alive(), f"not done in {FOREVER_S} s"
    if raised:
        raise raised[0]
    return results[0]
