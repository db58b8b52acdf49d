"""The table of faults in docs/reliability.md, made of the tests that bear the mark `fault`.

A mark names the fault, and what the client, the server's log and Sentry must then see:

    @pytest.mark.fault("the ingest is down", client="...", log="...", sink="...")

`python3 scripts/sections.py` writes it. The tests are read, not imported.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Iterator

from sections import table

_COLUMNS = ("client", "log", "sink")
_HEADINGS = ("fault", "the client gets", "the log says", "Sentry has", "test")


def section(root: Path) -> str:
    rows = list(faults(root))
    return f"{len(rows)} faults, each with its test:\n\n" + table(_HEADINGS, rows, numbers=False)


def faults(root: Path) -> Iterator[list[str]]:
    """Yield the rows: first those of tests on real servers, in the order of the files.

    :raises ValueError: a mark is not complete; the message names the place.
    """
    for file in sorted((root / "tests").glob("*/test_*.py")):
        path = file.relative_to(root).as_posix()
        for node in ast.parse(file.read_bytes()).body:
            for decorator in getattr(node, "decorator_list", ()):
                calls = [call for call in ast.walk(decorator) if isinstance(call, ast.Call)]
                for mark in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
                    if "fault" in (getattr(mark.func, "attr", ""), getattr(mark.func, "id", "")):
                        name = getattr(node, "name", "")
                        yield [*_cells(mark, path), f"[`{name}`](../{path})"]


def _cells(mark: ast.Call, path: str) -> list[str]:
    try:
        (name,) = map(ast.literal_eval, mark.args)
        told = {keyword.arg: ast.literal_eval(keyword.value) for keyword in mark.keywords}
        return [name, *(told.pop(column) for column in _COLUMNS)]
    except (ValueError, LookupError):
        raise ValueError(
            f'{path}:{mark.lineno}: expected fault("...", client="...", log="...", sink="...")'
        ) from None
