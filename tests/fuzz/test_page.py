"""The page of figures: whole, true to its JSON, and of all readers and verbs."""

from __future__ import annotations

from typing import Any

import pytest

from fuzz.disturbances import DISTURBANCES
from fuzz.page import page
from fuzz.reader import reader_names
from fuzz.verbs import VERBS
from studies.pages import RESULTS, read_results

LEAST_INPUTS = 5000


@pytest.fixture
def results() -> dict[str, Any]:
    return read_results("fuzzing")


def test_the_page_is_made_of_its_json(results: dict[str, Any]) -> None:
    assert (RESULTS / "fuzzing.md").read_text() == page(results)


def test_every_reader_was_fed_enough_and_without_a_fault(results: dict[str, Any]) -> None:
    assert sorted(results["readers"]) == reader_names()
    for name, row in results["readers"].items():
        assert row["inputs"] >= LEAST_INPUTS, name
        assert row["faults"] == 0, name
        assert not row["commit"].endswith("dirty"), name


@pytest.mark.parametrize("kind", DISTURBANCES)
def test_every_verb_was_disturbed_without_a_fault(kind: str, results: dict[str, Any]) -> None:
    assert set(results[kind]) == set(VERBS)
    for name, row in results[kind].items():
        assert row["times"] >= DISTURBANCES[kind][1](name), name
        assert row["faults"] == 0, name
        assert not row["commit"].endswith("dirty"), name
