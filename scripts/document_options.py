#!/usr/bin/env python3
"""Write the tables of options and of targets into docs/guide, from the parsers themselves.

The table of a command stands between `<!-- options: adadm export -->` and `<!-- end -->`, the table
of targets between `<!-- targets -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

from adadm.runtime.arguments import Parser
from adadm.runtime.cli import VERBS, run
from adadm.runtime.files import written_whole
from adadm.runtime.targets import TARGETS

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "guide"
COMMANDS = {f"adadm {name}": verb.module for name, verb in VERBS.items()} | {
    "camera.py": "adadm.runtime.camera",
    "verify.py": "adadm.runtime.verify",
    "train.py": "train",
    "evaluate.py": "evaluate",
}
"""The module with the `main` of each command."""

_BLOCK = re.compile(
    r"(?<=^<!-- )(options: ([^\n]+?)|targets)( -->\n).*?(?=^<!-- end -->$)", re.M | re.S
)


class _Parsed(Exception):
    pass


def main(argv: list[str]) -> None:
    """Rewrite pages that differ, and print their paths."""
    Parser(prog="document_options.py", description=__doc__).parse_args(argv)
    for path in sorted(GUIDE.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        written = documented(page)
        if written != page:
            with written_whole(path) as partial:
                partial.write_text(written, encoding="utf-8")
            print(f"wrote {path}")


def documented(page: str) -> str:
    """Page with the tables of the current parsers."""

    def filled(block: re.Match[str]) -> str:
        table = targets_table() if block[2] is None else options_table(parser_of(block[2]))
        return f"{block[1]}{block[3]}\n{table}\n\n"

    return _BLOCK.sub(filled, page)


def parser_of(command: str) -> argparse.ArgumentParser:
    """Parser of a command."""
    parsers: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        parsers.append(parser)
        raise _Parsed

    command_main = importlib.import_module(COMMANDS[command]).main
    with patch.object(argparse.ArgumentParser, "parse_args", keep), suppress(_Parsed):
        command_main([])
    return parsers[0]


def options_table(parser: argparse.ArgumentParser) -> str:
    """Arguments by position first, then options, in the order of the help."""
    rows = []
    for group in parser._action_groups:  # argparse lists them nowhere else
        actions = [action for action in group._group_actions if action.dest != "help"]
        if actions and group.description:
            rows.append(f"| *{group.title}* | {_escaped(group.description)} |")
        rows += [f"| {_name(action)} | {_meaning(parser, action)} |" for action in actions]
    return "\n".join(["| option | what it is |", "|---|---|", *rows])


def targets_table() -> str:
    """Table of the targets of lowering, building and bundling."""
    rows = [
        f"| `{name}` | {target.description} | {', '.join(target.compute_capabilities) or 'any'} | "
        f"{target.typing} | {target.opset} | {target.python or ''} |"
        for name, target in TARGETS.items()
    ]
    head = "| target | what it is | compute capability | typing | opset | its Python |"
    return "\n".join([head, "|---" * 6 + "|", *rows])


def _name(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    value = value[0] if isinstance(value, tuple) else value
    value += " ..." if action.nargs == "+" else ""
    if not action.option_strings:
        return _code(value)
    has_value = action.nargs != 0 and (action.metavar or not action.choices)
    *others, last = action.option_strings
    return ", ".join([*map(_code, others), _code(f"{last} {value}" if has_value else last)])


def _meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    text = text.replace(str(Path.home()), "~")
    parts = []
    if action.dest == "target":  # targets have a table of their own
        parts.append(f"a [target](targets.md): {_listed(action.choices or ())}")
        text = text.partition(".")[0] if text.startswith("default: ") else ""
    elif action.choices:
        parts.append(_listed(action.choices))
    if action.required and action.option_strings:
        parts.append("required")
    if type(action.default) in (int, float, str) and "default: " not in text:
        text += f"{'; ' if text else ''}default: {action.default}"
    return "; ".join(filter(None, (*parts, _escaped(text))))


def _listed(choices: Iterable[object]) -> str:
    return ", ".join(_code(str(choice)) for choice in choices)


def _code(text: str) -> str:
    """Format as code; in a table the two readers of these pages disagree on how to escape a bar."""
    if "|" in text:
        return f"<code>{text.replace('|', '&#124;')}</code>"
    return f"`{text}`"


def _escaped(text: str) -> str:
    """Escape a help text for a table, and link a page that it names."""
    text = text.replace("|", "&#124;").replace("<", "&lt;").replace("*", "&#42;")
    return re.sub(r"\bdocs/([\w/]+\.md)", r"[\1](../\1)", text)


if __name__ == "__main__":
    sys.exit(run("document_options.py", main, sys.argv[1:]))
