"""Whether the commands of a shell block exist, and take the arguments that they are given.

Nothing of it is run, but for the programs' own parsers of their command lines: in a process of
their own, which ends when they have parsed (parse_only.py).
"""

import functools
import io
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Iterator, List, Tuple

import bashlex
import bashlex.ast
from django_project import PATH
from dockerfile_parse import DockerfileParser
from pages import PAGES, ROOT

PARSE_ONLY = Path(__file__).resolve().with_name("parse_only.py")
SCRIPTS = Path(sysconfig.get_path("scripts"))

#: Of the shell, and of every Unix: nobody is asked.
UNIX = ("cd", "cp", "curl", "export", "grep", "mkdir", "rm", ".")

#: Their parsers are asked.
PYTHON_PROGRAMS = ("celery", "gunicorn", "pip", "poetry", "tox", "twine", "uvicorn")

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_PYTHON = re.compile(r"(.*/)?python3?$")


class UnknownCommandError(AssertionError):
    """A command that nobody knows how to look at."""


def commands(script: str) -> Iterator[List[str]]:
    """The commands of a shell script, without their assignments; those in $() as well.

    :raises bashlex.errors.ParsingError: it is none.
    """
    visitor = _Visitor()
    for tree in bashlex.parse(script):
        visitor.visit(tree)
    for words in visitor.commands:
        while words and _ASSIGNMENT.match(words[0]):
            words = words[1:]
        if words:
            yield words


class _Visitor(bashlex.ast.nodevisitor):  # type: ignore[misc]
    def __init__(self) -> None:
        self.commands: List[List[str]] = []

    def visitcommand(self, node: object, parts: "List[object]") -> None:
        words = [part.word for part in parts if part.kind == "word"]  # type: ignore[attr-defined]
        self.commands.append(words)


def check(words: List[str], page: str) -> None:
    """Errors: AssertionError, with what the program says."""
    program, arguments = words[0], words[1:]
    if _PYTHON.match(program):
        _check_python(arguments, page)
    elif program == "django-admin":
        _parses(program, arguments)
    elif program.endswith("/pip"):
        _parses("pip", arguments)
    elif program in PYTHON_PROGRAMS:
        _parses(program, arguments)
    elif program == "git":
        _run(("git", arguments[0], "-h"), status=129)
    elif program == "uv":
        _run((str(SCRIPTS / "uv"), *arguments, "--help"))
    elif program not in UNIX:
        raise UnknownCommandError(
            f"{page}: nobody knows how to look at {words}; next: add it to {Path(__file__).name}"
        )


def _check_python(arguments: List[str], page: str) -> None:
    if arguments[0] == "-m":
        module, arguments = arguments[1], arguments[2:]
        if module in PYTHON_PROGRAMS:
            _parses(module, arguments)
        else:
            _parses("-m", [module, *arguments])
        return
    script, arguments = arguments[0], arguments[1:]
    if script == "manage.py":
        _check_management_command(arguments, page)
    elif script == "scripts/test.py":
        _parses("tox", arguments)
    else:
        assert (ROOT / script).is_file(), f"no {script}"
        _parses(script, arguments)


def _check_management_command(arguments: List[str], page: str) -> None:
    own = f"shop/management/commands/{arguments[0]}.py"
    for block in PAGES[page].blocks:
        found = PATH.match(block.text)
        if block.kind == "python" and found and found[1] == own:
            return
    _parses("django-admin", arguments)


def _parses(program: str, arguments: List[str]) -> None:
    _run((sys.executable, str(PARSE_ONLY), program, *arguments))


@functools.lru_cache(maxsize=None)  # many pages have the same commands
def _run(command: Tuple[str, ...], status: int = 0) -> None:
    result = subprocess.run(
        command,
        cwd=str(ROOT),
        env={**os.environ, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=100,
    )
    assert result.returncode == status, f"{command}\n{result.stdout}"


def dockerfile_commands(text: str) -> "Iterator[Tuple[str, List[str]]]":
    """What a Dockerfile runs: (instruction, words)."""
    parser = DockerfileParser(fileobj=io.BytesIO(text.encode()))
    for step in parser.structure:
        value = step["value"]
        if step["instruction"] == "RUN":
            for words in commands(value):
                yield "RUN", words
        elif step["instruction"] in ("CMD", "ENTRYPOINT"):
            yield step["instruction"], json.loads(value)
