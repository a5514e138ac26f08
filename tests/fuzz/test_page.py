"""The page of figures is made of its JSON, and has nothing else to say."""

from __future__ import annotations

from fuzz.page import page
from studies.pages import RESULTS, read_results


def test_the_page_is_made_of_its_json() -> None:
    assert (RESULTS / "fuzzing.md").read_text() == page(read_results("fuzzing"))


def test_no_recorded_figure_has_a_fault() -> None:
    for kind, rows in read_results("fuzzing").items():
        for name, row in rows.items():
            assert row["faults"] == 0, (kind, name)
            assert not row["commit"].endswith("dirty"), (kind, name)
