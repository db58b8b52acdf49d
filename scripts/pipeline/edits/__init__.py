"""The edits: all that this project changes in upstream's files.

Each module here is one edit, and becomes one patch of every release. Its docstring is
the patch's header; its function `edit` finds each place by syntax tree, exactly once,
and says what is to stand there. `vendor.py port --all` writes all patches anew.
"""

from __future__ import annotations

import ast
from types import ModuleType
from typing import Any, Callable, Iterator, Mapping, Tuple

from .. import patch
from ..errors import RefusedError

Kinds = Tuple[type, ...]
ASSIGNMENT: Kinds = (ast.Assign, ast.AnnAssign)


class Source:
    """One of upstream's files, and the changes that an edit makes to it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.changes: list[tuple[int, int, str]] = []
        """Where a piece of the text begins and ends, and what replaces it."""
        try:
            self.tree = ast.parse(text)
        except SyntaxError as error:
            raise RefusedError(f"{name}:{error.lineno}: not Python", found=str(error)) from error
        self._parents = {
            child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)
        }

    def walk(self, *kinds: type, below: ast.AST | None = None) -> Iterator[Any]:
        """All nodes of these kinds, in the whole file or below a node."""
        return (node for node in ast.walk(below or self.tree) if isinstance(node, kinds))

    def above(self, node: ast.AST) -> Iterator[Any]:
        """The nodes that this one is part of, from the inside out."""
        while node in self._parents:
            node = self._parents[node]
            yield node

    def one(
        self, what: str, kinds: Kinds, test: Callable[[Any], bool], below: ast.AST | None = None
    ) -> Any:
        """The only node that passes the test.

        :param what: says in the error what was looked for.
        :raises RefusedError: there is none, or more than one.
        """
        found = [node for node in self.walk(*kinds, below=below) if test(node)]
        if len(found) != 1:
            raise RefusedError(
                f"{self.name}: the place for an edit is not clear",
                expected=f"exactly one {what}",
                found=", ".join(f"line {node.lineno}" for node in found) or "none",
            )
        return found[0]

    def replace(self, node: Any, text: str) -> None:
        self.changes.append((*self._span(node), text))

    def insert_before(self, node: Any, text: str) -> None:
        start, _ = self._span(node)
        self.changes.append((start, start, text))

    def insert_line_above(self, node: Any, line: str) -> None:
        """Put the line, indented as the node, above it and its decorators."""
        first = min(part.lineno for part in [node, *getattr(node, "decorator_list", [])])
        start = self._offset(first, 0)
        self.changes.append((start, start, f"{' ' * node.col_offset}{line}\n"))

    def rename(self, node: Any, name: str) -> None:
        """Give a class or a function another name, where it is defined."""
        start = self.text.index(node.name, self._span(node)[0])
        self.changes.append((start, start + len(node.name), name))

    def code(self, node: Any) -> str:
        """The node's text."""
        return self.text[slice(*self._span(node))]

    def changed(self) -> str:
        text = self.text
        for start, stop, new in sorted(self.changes, reverse=True):
            text = text[:start] + new + text[stop:]
        return text

    def _span(self, node: Any) -> tuple[int, int]:
        start = self._offset(node.lineno, node.col_offset)
        return start, self._offset(node.end_lineno, node.end_col_offset)

    def _offset(self, line: int, column: int) -> int:
        lines = patch.lines(self.text)
        # The syntax tree counts bytes.
        before = lines[line - 1].encode("utf-8")[:column].decode("utf-8")
        return sum(map(len, lines[: line - 1])) + len(before)


def called(node: ast.AST) -> str:
    """The dotted name that a call is of, or that an attribute or a name is."""
    if isinstance(node, ast.Call):
        return called(node.func)
    if isinstance(node, ast.Attribute):
        return f"{called(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def target(node: Any) -> ast.AST:
    """What an assignment assigns to."""
    found: ast.AST = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return found


def generate(texts: Mapping[str, str]) -> dict[str, bytes]:
    """Each edit's patch for these files, by the name of its file.

    :param texts: upstream's files, their imports rewritten.
    :raises RefusedError: an edit does not find what it looks for.
    """
    from . import close_aware, skip_unsampled_spans

    patches = {}
    for module in (close_aware, skip_unsampled_spans):
        title = module.__name__.rpartition(".")[2].replace("_", "-")
        sources = {name: Source(name, text) for name, text in texts.items()}
        try:
            module.edit(sources)
        except RefusedError as error:
            raise RefusedError(f"edit {title}: {error}") from error
        after = {name: source.changed() for name, source in sources.items()}
        patches[f"{title}.patch"] = patch.render(_header(module), texts, after)
    return patches


def _header(module: ModuleType) -> str:
    """The patch's DEP-3 header: the docstring, its prose made the Description."""
    prose, fields = (module.__doc__ or "").strip().split("\n\nAuthor:")
    subject, rest = prose.split("\n\n", 1)
    body = rest.replace("\n\n", "\n.\n").replace("\n", "\n ")
    return f"Description: {subject}\n {body}\nAuthor:{fields}"
