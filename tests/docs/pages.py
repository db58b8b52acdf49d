"""The pages: every Markdown file of the repository, taken apart by a CommonMark parser."""

import re
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Set

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]

_MARKDOWN = MarkdownIt("commonmark").enable("table")
#: Directories that are not of the repository.
_OTHERS = {".git", ".tox", ".cache", ".venv", "build", "dist", "node_modules"}


class Block(NamedTuple):
    """A block of code."""

    page: str  # its path in the repository
    line: int  # of its first line, from 1
    kind: str  # what it says it is; empty: nothing
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


class Page:
    """A Markdown file: its blocks, the links in it, and the anchors that one can link to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.relative_to(ROOT).as_posix()
        self.blocks: List[Block] = []
        self.links: List[str] = []
        self.anchors: Set[str] = set()
        tokens = _MARKDOWN.parse(path.read_text(encoding="utf-8"))
        for token, following in zip(tokens, [*tokens[1:], Token("", "", 0)]):
            if token.type in ("fence", "code_block"):
                line = (token.map or [0])[0] + (2 if token.type == "fence" else 1)
                kind = token.info.strip() if token.type == "fence" else "an indented block"
                self.blocks.append(Block(self.name, line, kind, token.content))
            elif token.type == "heading_open":
                self._add_anchor(following)
            elif token.type == "inline":
                self.links += _links(token)

    def _add_anchor(self, heading: Token) -> None:
        """As GitHub makes it, https://github.com/gjtorikian/html-pipeline."""
        text = "".join(child.content for child in heading.children or [])
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = 1
        unique = anchor
        while unique in self.anchors:
            unique, number = f"{anchor}-{number}", number + 1
        self.anchors.add(unique)


def _links(token: Token) -> Iterator[str]:
    for child in token.children or []:
        for name in "href", "src":
            value = child.attrGet(name)
            if value is not None:
                yield str(value)


def _pages() -> Dict[str, Page]:
    paths = [
        path
        for path in sorted(ROOT.rglob("*.md"))
        if not _OTHERS & set(path.relative_to(ROOT).parts[:-1])
        and not path.relative_to(ROOT).parts[0].endswith(".egg-info")
    ]
    return {page.name: page for page in map(Page, paths)}


#: By their paths in the repository.
PAGES = _pages()

BLOCKS = [block for page in PAGES.values() for block in page.blocks]


def blocks_of(*kinds: str) -> List[Block]:
    return [block for block in BLOCKS if block.kind in kinds]
