"""The blocks of code of every page, and of every workflow."""

from pathlib import Path
from typing import Iterator, List, NamedTuple

import yaml
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "patches/*.md", "benchmarks/*.md", ".github/*.md")
    for path in ROOT.glob(pattern)
)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


class Block(NamedTuple):
    page: str  # its path in the repository
    line: int  # of its first line, from 1
    kind: str  # what it says it is; empty: nothing
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
            if token.type in ("fence", "code_block"):
                kind = token.info.strip() if token.type == "fence" else "an indented block"
                yield Block(name, (token.map or [0])[0] + 2, kind, token.content)
    for workflow in WORKFLOWS:
        name = workflow.relative_to(ROOT).as_posix()
        for job in yaml.safe_load(workflow.read_text())["jobs"].values():
            for number, step in enumerate(job["steps"]):
                if "run" in step:
                    yield Block(name, number, "sh", step["run"])


BLOCKS = list(_blocks())


def blocks_of(*kinds: str) -> List[Block]:
    return [block for block in BLOCKS if block.kind in kinds]
