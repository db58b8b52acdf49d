"""The table of faults in docs/reliability.md, made of the tests that bear the mark `fault`.

    python scripts/faults.py            print it
    python scripts/faults.py --write    put it into the page
    python scripts/faults.py --check    exit 1 if the page has another

A mark names the fault, and what the client, the server's log and Sentry must then see:

    @pytest.mark.fault("the ingest is down", client="...", log="...", sink="...")

The tests are read, not imported. Standard library only, Python 3.8 and newer.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path
from typing import Iterator, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = "docs/reliability.md"

_COLUMNS = ("client", "log", "sink")
_BLOCK = re.compile(r"(?s)(<!-- faults -->\n).*?(<!-- /faults -->)")
_HEADER = """\
| fault | the client gets | the log says | Sentry has | test |
|---|---|---|---|---|
"""


class Fault(NamedTuple):
    name: str
    client: str
    log: str
    sink: str
    #: Path of the test's file, relative to the checkout, and the test's name.
    path: str
    test: str


def faults(root: Path) -> Iterator[Fault]:
    """Yield the faults of all tests: those on real servers first, in the order of the files.

    :raises SystemExit: a mark is not complete, or a file is no Python; the message names it.
    """
    for file in sorted((root / "tests").glob("*/test_*.py")):
        path = file.relative_to(root).as_posix()
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError) as error:
            sys.exit(f"{path}: not Python: {error}; next: mend it, or git checkout -- {path}")
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                for decorator in node.decorator_list:
                    for mark in _marks(decorator):
                        yield _fault(mark, path, node.name)


def _marks(decorator: ast.expr) -> Iterator[ast.Call]:
    """Yield the marks of a decorator: itself, or those of its parameters, as they stand."""
    for node in sorted(
        (node for node in ast.walk(decorator) if isinstance(node, ast.Call)),
        key=lambda node: (node.lineno, node.col_offset),
    ):
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
        if name == "fault":
            yield node


def _fault(mark: ast.Call, path: str, test: str) -> Fault:
    try:
        (name,) = map(ast.literal_eval, mark.args)
        told = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in mark.keywords}
        if sorted(told) != sorted(_COLUMNS):
            raise ValueError
    except ValueError:
        sys.exit(
            f"{path}:{mark.lineno}: the mark of {test} is not complete; expected "
            f'fault("...", {", ".join(f"{column}=..." for column in _COLUMNS)}), all of them '
            "string literals"
        )
    return Fault(name, **told, path=path, test=test)


def table(found: list[Fault]) -> str:
    rows = [
        f"| {fault.name} | {fault.client} | {fault.log} | {fault.sink} | "
        f"[`{fault.test}`](../{fault.path}) |\n"
        for fault in found
    ]
    return f"{len(found)} faults, each with its test:\n\n{_HEADER}{''.join(rows)}"


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description="The table of faults in docs/reliability.md.")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--write", action="store_true", help="put it into docs/reliability.md")
    group.add_argument(
        "--check", action="store_true", help="exit 1 if docs/reliability.md has another"
    )
    options = parser.parse_args(argv)
    text = table(list(faults(root)))
    if not (options.write or options.check):
        print(text, end="")
        return 0
    page = root / PAGE
    try:
        before = page.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"{PAGE}: missing or damaged: {error}; next: git checkout -- {PAGE}")
        return 1
    wanted, blocks = _BLOCK.subn(lambda match: f"{match[1]}{text}{match[2]}", before)
    if blocks != 1:
        print(
            f"{PAGE}: found {blocks} blocks for the table, expected 1: add the lines "
            "<!-- faults --> and <!-- /faults -->; next: faults.py --write"
        )
        return 1
    if options.check and wanted != before:
        print(f"{PAGE}: its table of faults is another one; next: faults.py --write")
        return 1
    if wanted != before:
        page.write_bytes(wanted.encode())
        print(f"{PAGE}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
