from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from document_options import COMMANDS, GUIDE, documented, options_table, parser_of

OPTIONS = "<!-- options: {} -->\n{}<!-- end -->\n"


@pytest.mark.parametrize("page", sorted(GUIDE.glob("*.md")), ids=lambda page: page.name)
def test_tables_are_those_of_the_parsers(page: Path) -> None:
    text = page.read_text()
    assert documented(text) == text, "run scripts/document_options.py"


def test_every_command_has_its_table_on_one_page() -> None:
    text = "".join(page.read_text() for page in GUIDE.glob("*.md"))
    assert {command: text.count(f"<!-- options: {command} -->\n") for command in COMMANDS} == (
        dict.fromkeys(COMMANDS, 1)
    )


def test_a_table_that_is_old_is_written_anew() -> None:
    old = "# Page\n\n" + OPTIONS.format("adadm doctor", "\n| old |\n\n") + "\nrest\n"
    new = documented(old)
    assert "old" not in new and "`--json OUT`" in new
    assert new.startswith("# Page\n\n") and new.endswith("<!-- end -->\n\nrest\n")
    assert documented(new) == new


def test_two_tables_on_a_page_stay_apart() -> None:
    page = OPTIONS.format("adadm doctor", "") + "between\n" + OPTIONS.format("verify.py", "")
    doctor, verify = documented(page).split("between\n")
    assert "--record" in verify and "--record" not in doctor


def test_a_row_has_what_the_help_has() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", nargs="+", help="a <file>")
    parser.add_argument("-o", "--output", required=True, metavar="A|B", help="of docs/guide/x.md")
    parser.add_argument("--fold", choices=("on", "off"), default="on", help="how; default: on")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--cache", default=str(Path.home() / "c"), help="default: %(default)s")
    parser.add_argument("--fast", action="store_true", help="all * of it")
    group = parser.add_argument_group("others", "rarely")
    group.add_argument("--odd", metavar="N")
    assert options_table(parser).splitlines()[2:] == [
        "| `source ...` | a &lt;file> |",
        "| `-o`, <code>--output A&#124;B</code> | required; of [guide/x.md](../guide/x.md) |",
        "| `--fold` | `on`, `off`; how; default: on |",
        "| `--steps STEPS` | default: 7 |",
        "| `--cache CACHE` | default: ~/c |",
        "| `--fast` | all &#42; of it |",
        "| *others* | rarely |",
        "| `--odd N` |  |",
    ]


def test_the_parser_of_a_command_is_that_which_its_main_uses() -> None:
    assert parser_of("adadm doctor").prog == "adadm doctor"
