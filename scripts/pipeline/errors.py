"""What the pipeline refuses, and how it says so.

Every message names the file or the value, what was expected, what was found,
and the command that comes next. `status` is the exit status of vendor.py.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base class: something is wrong that the user can mend."""

    status = 2

    def __init__(
        self, problem: str, *, expected: str = "", found: str = "", next: str = ""
    ) -> None:
        lines = [problem]
        for label, text in (("expected", expected), ("found", found), ("next", next)):
            if text:
                lines.append(f"  {label}: {text}")
        super().__init__("\n".join(lines))


class RefusedError(PipelineError):
    """A release that cannot be ported: an edit or a check says why."""

    status = 1


class DamagedError(PipelineError):
    """A wheel, a patch or a lock is not what it has to be."""

    status = 3
