"""Let a program parse its command line, and end it there. Exit status 0: it has taken it.

    python parse_only.py PROGRAM ARGUMENT...
    python parse_only.py -m MODULE ARGUMENT...
    python parse_only.py path/to/script.py ARGUMENT...

Programs with argparse are run until their parser has returned; the others have their parser
called by itself.
"""

import argparse
import os
import runpy
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

#: Programs whose first parser leaves the rest of the line to a second one.
TWO_PARSERS = ("twine",)


def until_parsed(run: Callable[[], Any], arguments: List[str], parsers: int = 1) -> None:
    """Run something with argparse, until its last parser has taken the arguments."""
    left, depth = parsers, 0

    def until_last(original: Callable[..., Any]) -> Callable[..., Any]:
        def parse(self: Any, args: Any = None, namespace: Any = None) -> Any:
            # A parser calls itself, and those of its subcommands.
            nonlocal left, depth
            depth += 1
            try:
                result = original(self, args, namespace)
            finally:
                depth -= 1
            if not depth:
                left -= 1
                if not left:
                    os._exit(0)
            return result

        return parse

    for name in "parse_args", "parse_known_args":
        original = getattr(argparse.ArgumentParser, name)
        setattr(argparse.ArgumentParser, name, until_last(original))
    sys.argv[1:] = arguments
    run()
    sys.exit(f"{sys.argv}: no parser was asked")


def script(path: str, arguments: List[str]) -> None:
    sys.path[0] = str(Path(path).resolve().parent)
    sys.argv[0] = path
    until_parsed(lambda: runpy.run_path(path, run_name="__main__"), arguments)


def module(name: str, arguments: List[str]) -> None:
    del sys.path[0]
    sys.argv[0] = name
    until_parsed(
        lambda: runpy.run_module(name, run_name="__main__", alter_sys=True),
        arguments,
        2 if name in TWO_PARSERS else 1,
    )


def pip(arguments: List[str]) -> None:
    from pip._internal.commands import create_command

    create_command(arguments[0]).parse_args(arguments[1:])


def tox(arguments: List[str]) -> None:
    """Its command line, and the environments and labels that are named in it."""
    from tox.config.cli.parse import get_options
    from tox.run import setup_state

    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    get_options(*before)
    state = setup_state(before)
    names = list(state.envs.iter())
    if not names:
        sys.exit(f"tox: no environment for {before}")


def click(command: Any, arguments: List[str], obj: Any = None) -> None:
    """Parse, with the subcommand's own parser if there is one."""
    context = command.make_context(command.name, list(arguments), obj=obj)
    if hasattr(command, "resolve_command"):
        rest = [*getattr(context, "_protected_args", []), *context.args]
        _, subcommand, rest = command.resolve_command(context, rest)
        subcommand.make_context(subcommand.name, rest, parent=context)


def celery(arguments: List[str]) -> None:
    from celery import Celery
    from celery.bin.base import CLIContext
    from celery.bin.celery import celery as command

    click(command, arguments, CLIContext(app=Celery(), no_color=True, workdir=None))


def uvicorn(arguments: List[str]) -> None:
    from uvicorn.main import main as command

    click(command, arguments)


def poetry(arguments: List[str]) -> None:
    from cleo.io.inputs.argv_input import ArgvInput
    from poetry.console.application import Application

    application = Application()
    name = next(
        " ".join(arguments[:count])
        for count in range(len(arguments), 0, -1)
        if application.has(" ".join(arguments[:count]))
    )
    command = application.find(name)
    line = ArgvInput(["poetry", *arguments[len(name.split()) :]])
    line.bind(command.definition)
    line.validate()


def django_admin(arguments: List[str]) -> None:
    from django.conf import settings
    from django.core.management import execute_from_command_line

    settings.configure()
    until_parsed(lambda: execute_from_command_line(["manage.py", *arguments]), arguments, 2)


PROGRAMS: "Dict[str, Callable[[List[str]], None]]" = {
    "celery": celery,
    "django-admin": django_admin,
    "pip": pip,
    "poetry": poetry,
    "tox": tox,
    "uvicorn": uvicorn,
}


def main() -> None:
    program, arguments = sys.argv[1], sys.argv[2:]
    if program == "-m":
        module(arguments[0], arguments[1:])
    elif program.endswith(".py"):
        script(program, arguments)
    elif program in PROGRAMS:
        PROGRAMS[program](arguments)
    else:
        module(program, arguments)


if __name__ == "__main__":
    main()
