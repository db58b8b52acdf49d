"""Run a program with argparse until it has parsed its command line. Exit status 0: it took it.

    python parse_only.py PARSERS path/to/script.py ARGUMENT...
    python parse_only.py PARSERS MODULE ARGUMENT...

PARSERS is how many parsers have to take it: some programs leave the rest to a second one.
"""

import argparse
import os
import runpy
import sys
from pathlib import Path
from typing import Any, Callable

left, depth = int(sys.argv[1]), 0


def until_last(original: Callable[..., Any]) -> Callable[..., Any]:
    def parse(self: Any, args: Any = None, namespace: Any = None) -> Any:
        # A parser calls itself, and those of its subcommands.
        global left, depth
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
    setattr(argparse.ArgumentParser, name, until_last(getattr(argparse.ArgumentParser, name)))
program = sys.argv[2]
sys.argv = sys.argv[2:]
if program.endswith(".py"):
    sys.path[0] = str(Path(program).resolve().parent)
    runpy.run_path(program, run_name="__main__")
else:
    if program == "django":
        import django.conf

        django.conf.settings.configure()
    del sys.path[0]
    runpy.run_module(program, run_name="__main__", alter_sys=True)
sys.exit(f"{sys.argv}: no parser was asked")
