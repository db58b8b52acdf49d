"""Whether the commands of a shell block exist, and take the arguments that they are given.

Only the programs' own parsers of their command lines are run.
"""

import functools
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Iterator, List, Tuple

import bashlex
import bashlex.ast
from pages import BLOCKS, ROOT

HERE = Path(__file__).resolve().parent
SCRIPTS = Path(sysconfig.get_path("scripts"))

#: Of the shell and of every Unix, and what is too large to install for this: not asked.
KNOWN = [
    *(".", "[", "cat", "cd", "cp", "curl", "echo", "exit", "export", "gh", "grep", "mkdir"),
    *("npx", "poetry", "pre-commit", "pytest", "rm", "set", "tee"),
]
#: Their parsers complain of an unknown argument before they show their help.
HELPFUL = ["celery", "mkdocs", "pip", "uv", "uvicorn"]
#: With argparse: how many parsers take the command line.
PARSERS = {"gunicorn": 1, "build": 1, "twine": 2, "django": 2}


def commands(script: str) -> Iterator[List[str]]:
    """The commands of a shell script, without assignments; those in $() as well.

    :raises bashlex.errors.ParsingError: it is none.
    """
    # GitHub's expressions are not the shell's.
    script = re.sub(r"\$\{\{.*?\}\}", "expression", script)
    found: List[List[str]] = []

    class Visitor(bashlex.ast.nodevisitor):  # type: ignore[misc]
        def visitcommand(self, node: object, parts: "List[object]") -> None:
            found.append([part.word for part in parts if part.kind == "word"])  # type: ignore[attr-defined]

    for tree in bashlex.parse(script):
        Visitor().visit(tree)
    for words in found:
        while words and re.match(r"[A-Za-z_]\w*=", words[0]):
            words = words[1:]
        if words:
            yield words


def check(words: List[str]) -> None:
    """:raises AssertionError: with what the program says."""
    program, arguments = words[0].rpartition("/")[2], words[1:]
    if program in ("python", "python3"):
        program, arguments = arguments[0], arguments[1:]
        if program == "-m":
            program, arguments = arguments[0], arguments[1:]
    if program in ("manage.py", "django-admin"):
        own = f"# shop/management/commands/{arguments[0]}.py\n"
        if any(block.text.startswith(own) for block in BLOCKS):
            return
        program = "django"
    if program == "git":
        _run(("git", arguments[0], "-h"), status=129)
    elif program.startswith("tests/runtime/"):
        assert (ROOT / program).is_file(), f"no {program}"  # needs other tests' requirements
    elif program == "scripts/test.py":
        _run((sys.executable, "-m", "tox", "config", "-k", "env_name", *_for_tox(arguments)))
    elif program in HELPFUL:
        if program == "celery":  # which imports what -A names
            arguments = arguments[2:]
        _run((str(SCRIPTS / program), *arguments, "--help"))
    elif program.endswith(".py") or program in (
        *PARSERS,
        "vendored_integration",
        "venv",
        "http.server",
    ):
        assert not program.endswith(".py") or (ROOT / program).is_file(), f"no {program}"
        if not arguments:  # a script need not have a parser
            return
        parsers = str(PARSERS.get(program, 1))
        _run((sys.executable, str(HERE / "parse_only.py"), parsers, program, *arguments))
    else:
        assert program in KNOWN, f"nobody knows how to check {words}; next: add it to {__file__}"


def _for_tox(arguments: List[str]) -> List[str]:
    """The arguments of scripts/test.py that name environments."""
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return [one for one in before if one != "--all"] if "$TOX_ENV" not in before else []


@functools.lru_cache(maxsize=None)  # many pages have the same commands
def _run(command: Tuple[str, ...], status: int = 0) -> None:
    result = subprocess.run(
        command,
        cwd=str(ROOT),
        env={**os.environ, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    assert result.returncode == status, f"{command}\n{result.stdout}"
