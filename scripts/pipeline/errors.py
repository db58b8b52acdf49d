"""What the pipeline refuses, and how it says so.

Every message names the file or the value, what was expected, what was found,
and the command that comes next.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base class: something is wrong that the user can mend."""

    def __init__(
        self, problem: str, *, expected: str = "", found: str = "", next: str = ""
    ) -> None:
        lines = [problem]
        for label, text in (("expected", expected), ("found", found), ("next", next)):
            if text:
                lines.append(f"  {label}: {text}")
        super().__init__("\n".join(lines))


class ReleaseError(PipelineError):
    """The release asked for is unknown, a pre-release, or not this sdist's."""


class FetchError(PipelineError):
    """The SDK's wheel, or the installed SDK, could not be had."""


class MismatchError(PipelineError):
    """A file is not, byte for byte, the one that the lock names."""


class RewriteError(PipelineError):
    """A rewrite rule matches nothing, or an import is left that no rule knows."""


class PatchError(PipelineError):
    """A patch file cannot be read, or does not apply exactly."""


class LockError(PipelineError):
    """A lock file is missing, damaged, or at odds with its neighbours."""


class PortError(PipelineError):
    """A port cannot begin, or cannot go on."""


class BuildError(PipelineError):
    """A wheel could not be built, or is not the same as before."""
