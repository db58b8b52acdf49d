"""Replay one release's patches on another release's files.

For maintainers only: what `pip install` runs never gets here. Each patch is a three-way merge: what the old release was before it, what the patch
made of that, and what the new release is by now, the patches before it included.
git does the merging. Whether it may be believed is decided here.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Iterator

from . import patchqueue
from .errors import PatchError
from .git import Repository
from .patchqueue import Edit, Patch

CLEAN = "clean"  # the patch applies as it is, to the line
MERGED = "merged"  # upstream has changed the same file, and git has found the new places
DROPPED = "dropped"  # upstream has the whole change
BY_HAND = "by hand"  # somebody has resolved it
CONFLICT = "conflict"


@dataclass(frozen=True)
class Step:
    """What has become of one patch."""

    name: str
    status: str
    reasons: tuple[str, ...] = ()
    """Why somebody must look: one line a file."""


@dataclass
class Merge:
    """One release's patches on another's files, from the first patch to the last or to a conflict.

    In the repository HEAD is the new release with the patches so far; `old` holds
    the commits of the old release, with one patch more each.
    """

    repository: Repository
    patches: list[Patch]
    old: list[str]
    new: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        patches: list[Patch],
        old: dict[str, str],
        new: dict[str, str],
        name: str,
    ) -> Merge:
        """Set the repository up for the merges.

        :param old: the old release's files, their imports rewritten.
        :param new: the same of the new release.
        :param name: of the new release.
        """
        repository = Repository.create(f"vendor-port-{name}-")
        commits = [repository.commit(old, "The old release")]
        for patch in patches:
            old = patchqueue.apply(patch, old)
            commits.append(repository.commit(old, patch.name))
        repository.checkout(commits[0])
        return cls(repository, patches, commits, [repository.commit(new, "The new release")])

    @classmethod
    def resume(cls, path: Path, patches: list[Patch]) -> Merge:
        """A merge that has stopped; the patch that it stopped at is as the user left it."""
        repository, state = Repository.reopen(path)
        steps = [Step(name, status) for name, status in state["steps"]]
        merge = cls(repository, patches, state["old"], state["new"], steps)
        patch = patches[len(steps)]
        texts = repository.texts()
        reasons = tuple(_unfit(texts))
        merge._finish(Step(patch.name, CONFLICT if reasons else BY_HAND, reasons), texts)
        return merge

    @property
    def conflict(self) -> Step | None:
        return self.steps[-1] if self.steps and self.steps[-1].status == CONFLICT else None

    def run(self) -> None:
        """Merge one patch after the other, until one is in conflict."""
        while not self.conflict and len(self.steps) < len(self.patches):
            number = len(self.steps)
            patch = self.patches[number]
            unmerged = self.repository.pick(self.old[number + 1])
            texts = self.repository.texts()
            reasons = [f"{name}: both sides have changed the same lines" for name in unmerged]
            reasons = reasons or list(_unfit(texts)) or list(self._doubts(number, texts))
            self._finish(Step(patch.name, CONFLICT if reasons else CLEAN, tuple(reasons)), texts)

    def save(self, **more: str) -> None:
        """Leave in the repository what `resume` needs, and `more`."""
        steps = [(step.name, step.status) for step in self.steps if step.status != CONFLICT]
        self.repository.save({"old": self.old, "new": self.new, "steps": steps, **more})

    def result(self, directory: Path) -> list[Patch]:
        """The patches for the new release, their headers included, once all are through."""
        patches = []
        for number, (patch, step) in enumerate(zip(self.patches, self.steps)):
            if step.status != DROPPED:
                diff, header = self._diff(number), patch.header
                if _change(diff) != _change(self._old_diff(number)):
                    header = re.sub(r"(?m)^(Last-Update:).*", rf"\1 {date.today()}", header)
                patches.append(Patch(directory / patch.name, header, diff))
        return patches

    def _finish(self, step: Step, texts: dict[str, str]) -> None:
        """Take the patch as done, unless it is in conflict."""
        if step.status != CONFLICT:
            number = len(self.steps)
            self.new.append(self._commit(texts, step.name))
            if self.repository.read(self.new[number]) == texts:
                step = replace(step, status=DROPPED)
            elif step.status == CLEAN and self._diff(number) != self._old_diff(number):
                step = replace(step, status=MERGED)
        self.steps.append(step)

    def _commit(self, texts: dict[str, str], message: str) -> str:
        # Whatever the user has committed by himself meanwhile.
        self.repository.checkout(self.new[-1])
        return self.repository.commit(texts, message)

    def _diff(self, number: int) -> str:
        """The patch's diff for the new release: its own hunks where they still fit."""
        patch = self.patches[number]
        old = self.repository.read(self.old[number])
        before = self.repository.read(self.new[number])
        after = self.repository.read(self.new[number + 1])
        was = self._edits(patch, self.old[number], self.old[number + 1])
        now = self._edits(patch, self.new[number], self.new[number + 1])
        # git may have chosen other lines for the same change: of two equal ones, say.
        moved = patchqueue.render(_moved(patchqueue.edits(patch, old), was, now), before, 0)
        try:
            if patchqueue.apply(replace(patch, diff=moved), before) == after:
                return moved
        except PatchError:
            pass
        return patchqueue.render(now, before, 0)

    def _old_diff(self, number: int) -> str:
        old = self.repository.read(self.old[number])
        return patchqueue.unified(self.patches[number], old, 0)

    def _edits(self, patch: Patch, before: str, after: str) -> dict[str, list[Edit]]:
        diff = self.repository.diff(before, after)
        if not diff:
            return {}
        return patchqueue.edits(replace(patch, diff=diff), self.repository.read(before))

    def _doubts(self, number: int, merged: dict[str, str]) -> Iterator[str]:
        """Where git has merged without a conflict, and may have merged wrongly all the same."""
        patch = self.patches[number]
        old = self.repository.read(self.old[number])
        patched = self.repository.read(self.old[number + 1])
        before = self.repository.read(self.new[number])
        for name, edits in patchqueue.edits(patch, old).items():
            was, is_now = _Text(patched[name]), _Text(merged.get(name, ""))
            shift = 0
            for edit in edits:
                place = edit.start + shift
                shift += len(edit.new) - (edit.stop - edit.start)
                if not edit.new:
                    gone = patchqueue.split_lines(old[name])[edit.start : edit.stop]
                    left = _Text(before.get(name, "")).find(gone)
                    if left and len(is_now.find(gone)) >= len(left):
                        yield f"{name}: lines that the patch removes are still there"
                    continue
                places = is_now.find(edit.new)
                line = edit.new[0].strip() or "an empty line"
                if not places:
                    yield f"{name}: lines that the patch adds are missing: {line}"
                elif was.scope(place) not in map(is_now.scope, places):
                    where = is_now.scope(places[0]) or "the module"
                    yield (
                        f"{name}: {line!r} has come to lie in {where}, "
                        f"and not in {was.scope(place) or 'the module'}"
                    )


class _Text:
    """A file's lines, and the function or class that each lies in."""

    def __init__(self, text: str) -> None:
        self.lines = patchqueue.split_lines(text)
        self._spans: list[tuple[int, int, str]] = []
        self._collect(ast.parse(text), "")

    def _collect(self, node: ast.AST, scope: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = scope
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                inner = f"{scope}.{child.name}".lstrip(".")
                self._spans.append((child.lineno - 1, child.end_lineno or 0, inner))
            self._collect(child, inner)

    def scope(self, index: int) -> str:
        inside = [span for span in self._spans if span[0] < index < span[1]]
        return inside[-1][2] if inside else ""

    def find(self, lines: list[str]) -> list[int]:
        """Where these lines stand, one after the other."""
        return [
            index
            for index in range(len(self.lines) - len(lines) + 1)
            if self.lines[index : index + len(lines)] == lines
        ]


def _unfit(texts: dict[str, str]) -> Iterator[str]:
    for name, text in texts.items():
        marker = re.search(r"(?m)^(<{7}|\|{7}|>{7}) ", text)
        if marker:
            line = text.count("\n", 0, marker.start()) + 1
            yield f"{name}:{line}: a conflict marker is left"
            continue
        try:
            compile(text, name, "exec", dont_inherit=True)
        except SyntaxError as error:
            yield f"{name}:{error.lineno}: not Python: {error.msg}"


def _change(diff: str) -> list[str]:
    """The diff without its line numbers."""
    return [line for line in diff.splitlines() if not line.startswith("@@")]


def _moved(
    own: dict[str, list[Edit]], was: dict[str, list[Edit]], now: dict[str, list[Edit]]
) -> dict[str, list[Edit]]:
    """The patch's own edits, moved as far as git's for the same change have moved."""
    result = {}
    for name, edits in own.items():
        pairs = list(zip(was.get(name, ()), now.get(name, ())))
        if len(edits) == len(was.get(name, ())) == len(now.get(name, ())):
            result[name] = [
                edit._replace(start=edit.start + shift, stop=edit.stop + shift)
                for edit, (a, b) in zip(edits, pairs)
                for shift in [b.start - a.start]
            ]
    return result
