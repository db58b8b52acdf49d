"""Read, apply and write the patch files of one directory below patches/.

The parser is unidiff's. Applying is done here, since none of the small libraries
is strict: no offset, no fuzz, nothing skipped. Every line of a patch file is
understood or it is refused, and every line that it removes must be there.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Iterator, NamedTuple

from unidiff.errors import UnidiffParseError
from unidiff.patch import Hunk, PatchSet

from .errors import PatchError

_HEADER_FIELDS = ("Description", "Origin", "Forwarded", "Last-Update", "Author")


@dataclass(frozen=True)
class Patch:
    path: Path
    header: str
    """DEP-3: what the patch does, and why."""
    diff: str

    @property
    def name(self) -> str:
        return self.path.name


class Edit(NamedTuple):
    """Lines start to stop, counted from 0, become the new ones."""

    start: int
    stop: int
    new: list[str]


def read(directory: Path) -> list[Patch]:
    """The directory's patches in the order of its `series` file."""
    series = directory / "series"
    if not series.is_file():
        raise PatchError(
            f"{_short(series)}: missing",
            expected="the names of the patch files, one a line (it may be empty)",
            next=f"git checkout -- {_short(series)}, or remove the directory",
        )
    lines = (line.split("#")[0].strip() for line in split_lines(_text(series)))
    names = [line for line in lines if line]
    for path in (directory / name for name in names):
        if not path.is_file():
            raise PatchError(
                f"{_short(path)}: missing",
                next=f"git checkout -- {_short(path)}, or remove its line from {_short(series)}",
            )
    present = sorted(path.name for path in directory.glob("*.patch"))
    if sorted(names) != present:
        raise PatchError(
            f"{_short(series)}: does not name the directory's patch files, each once",
            expected=", ".join(present) or "no patch",
            found=", ".join(names) or "no patch",
            next=f"edit {_short(series)}",
        )
    return [_read_patch(directory / name) for name in names]


def apply(patch: Patch, texts: dict[str, str]) -> dict[str, str]:
    """Return the texts with the patch applied."""
    result = dict(texts)
    for name, found in edits(patch, texts).items():
        lines = split_lines(texts[name])
        for edit in reversed(found):
            lines[edit.start : edit.stop] = edit.new
        result[name] = "".join(lines)
    if result == texts:
        raise _refused(patch, "changes nothing", next="remove it, also from the series")
    return result


def unified(patch: Patch, texts: dict[str, str], context: int) -> str:
    """The patch as a unified diff against the texts, with that much context.

    Made from the patch's own hunks. A new diff of before and after can quote much
    more than has changed: difflib's are not minimal.
    """
    return render(edits(patch, texts), texts, context)


def render(changes: dict[str, list[Edit]], texts: dict[str, str], context: int) -> str:
    """The edits as a unified diff."""
    diff = []
    for name, found in sorted(changes.items()):
        diff += [f"--- a/{name}\n", f"+++ b/{name}\n"]
        diff += _hunks(split_lines(texts[name]), found, context)
    return "".join(diff)


def export(patch: Patch, texts: dict[str, str]) -> str:
    """The one way to write the patch: header, empty line, diff without context."""
    missing = [
        field for field in _HEADER_FIELDS if not re.search(rf"(?m)^{field}: *\S", patch.header)
    ]
    if missing:
        raise _refused(
            patch,
            "the header is not complete",
            expected=", ".join(_HEADER_FIELDS),
            found=f"no {', no '.join(missing)}",
            next="see patches/README.md",
        )
    return f"{patch.header}\n\n{unified(patch, texts, 0)}"


def _read_patch(path: Path) -> Patch:
    text = _text(path)
    start = re.search(r"(?m)^(?:diff --git |--- [^\n]|@@)", text)
    if start is None:
        raise PatchError(f"{_short(path)}: has no diff", expected="--- a/...", next=_mend(path))
    return Patch(path, text[: start.start()].rstrip(), text[start.start() :])


def _parse(patch: Patch) -> PatchSet:
    try:
        files = PatchSet(io.StringIO(patch.diff))
    except UnidiffParseError as error:
        raise _refused(patch, "not a unified diff", found=str(error)) from error
    # unidiff takes lines that it does not know for remarks, so count: a hunk
    # with a damaged head must not be skipped.
    understood = sum(2 + sum(1 + len(hunk) for hunk in file) for file in files)
    lines = split_lines(patch.diff)
    git = sum(line.startswith(("diff --git ", "index ")) for line in lines)
    if not files or understood + git != len(lines):
        raise _refused(
            patch,
            "not every line of it is part of a diff",
            expected=f"{len(lines)} lines",
            found=f"{understood + git} lines that can be understood",
        )
    if any(line.line_type == "\\" for file in files for hunk in file for line in hunk):
        raise _refused(patch, "a file must end with a newline")
    return files


def edits(patch: Patch, texts: dict[str, str]) -> dict[str, list[Edit]]:
    """What the patch does to each file, once it is sure that it applies exactly."""
    result: dict[str, list[Edit]] = {}
    for file in _parse(patch):
        name = file.source_file[2:]
        if (file.source_file, file.target_file) != (f"a/{name}", f"b/{name}"):
            raise _refused(
                patch,
                "can neither add, remove nor rename a file",
                expected="--- a/NAME and +++ b/NAME, NAME twice the same",
                found=f"--- {file.source_file} and +++ {file.target_file}",
            )
        if name not in texts:
            raise _refused(
                patch,
                f"changes {name}, which this release has not",
                expected=", ".join(sorted(texts)),
                found=name,
            )
        if name in result:
            raise _refused(patch, f"names {name} twice")
        lines = split_lines(texts[name])
        done = 0
        result[name] = []
        for hunk in file:
            start = _located(patch, name, lines, hunk, done)
            done = start + hunk.source_length
            result[name] += _split(start, hunk)
        result[name] = _minimal(lines, result[name])
    return result


def _located(patch: Patch, name: str, lines: list[str], hunk: Hunk, done: int) -> int:
    """The index of the hunk's first line; it must lie there and nowhere else."""
    # Line numbers count from 1; an insertion names the line that it follows.
    start: int = hunk.source_start - (1 if hunk.source_length else 0)
    old = [line.value for line in hunk.source_lines()]
    here = lines[start : start + len(old)] if start >= 0 else []
    if not done <= start <= len(lines) or here != old:
        raise _refused(
            patch,
            f"does not apply to {name} at line {hunk.source_start}",
            expected=repr("".join(old)) if old else f"line {hunk.source_start}",
            found=repr("".join(here)) if old else f"{len(lines)} lines",
        )
    return start


def _split(start: int, hunk: Hunk) -> Iterator[Edit]:
    """The hunk without its context lines."""
    edit = Edit(start, start, [])
    for line in hunk:
        if line.is_added:
            edit = edit._replace(new=[*edit.new, line.value])
        elif line.is_removed:
            edit = edit._replace(stop=edit.stop + 1)
        elif line.is_context:
            yield edit
            edit = Edit(edit.stop + 1, edit.stop + 1, [])
    yield edit


def _minimal(lines: list[str], edits: list[Edit]) -> list[Edit]:
    """The same edits in their one form: apart from each other, no line kept in them."""
    merged: list[Edit] = []
    for edit in edits:
        if merged and merged[-1].stop == edit.start:
            last = merged.pop()
            edit = Edit(last.start, edit.stop, last.new + edit.new)
        merged.append(edit)
    result = []
    for start, stop, new in merged:
        matcher = SequenceMatcher(None, lines[start:stop], new, autojunk=False)
        for tag, i1, i2, j1, j2 in matcher.get_opcodes():
            if tag != "equal":
                result.append(Edit(start + i1, start + i2, new[j1:j2]))
    return result


def _hunks(lines: list[str], edits: list[Edit], context: int) -> Iterator[str]:
    shift = 0
    while edits:
        # Edits whose context would touch share a hunk.
        count = 1
        while count < len(edits) and edits[count].start - edits[count - 1].stop <= 2 * context:
            count += 1
        group, edits = edits[:count], edits[count:]
        start = max(0, group[0].start - context)
        stop = min(len(lines), group[-1].stop + context)
        growth = sum(len(new) - (end - begin) for begin, end, new in group)
        old = _range(start, stop)
        yield f"@@ -{old} +{_range(start + shift, stop + shift + growth)} @@\n"
        shift += growth
        for edit in group:
            yield from (" " + line for line in lines[start : edit.start])
            yield from ("-" + line for line in lines[edit.start : edit.stop])
            yield from ("+" + line for line in edit.new)
            start = edit.stop
        yield from (" " + line for line in lines[start:stop])


def _range(start: int, stop: int) -> str:
    if stop - start == 1:
        return str(start + 1)
    # An empty range is named by the line before it.
    return f"{start + 1 if stop > start else start},{stop - start}"


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise PatchError(
            f"{_short(path)}: not UTF-8", found=str(error), next=_mend(path)
        ) from error


def split_lines(text: str) -> list[str]:
    """Split at newlines only: str.splitlines() also splits at form feeds."""
    return list(io.StringIO(text))


def _short(path: Path) -> str:
    return "/".join(path.parts[-3:])


def _refused(
    patch: Patch, problem: str, *, expected: str = "", found: str = "", next: str = ""
) -> PatchError:
    return PatchError(
        f"{_short(patch.path)}: {problem}",
        expected=expected,
        found=found,
        next=next or _mend(patch.path),
    )


def _mend(path: Path) -> str:
    return f"mend {_short(path)}, or git checkout -- {_short(path)}"
