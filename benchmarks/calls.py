#!/usr/bin/env python3
"""Count what a streaming WSGI request calls of this package, and how often the module changes.

    python benchmarks/calls.py        in an environment with Django and the package

The second request of a process, sampled, two chunks: iterated, and closed.
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parent / "worker"))
    from serve import Server  # type: ignore[import-not-found]

    server = Server("ours", 1)
    server.request("/stream/2")

    package = f"vendored_integration{os.sep}"
    functions: "Counter[str]" = Counter()
    changes, last = 0, ""

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal changes, last
        _, found, name = frame.f_code.co_filename.rpartition(package)
        if event != "call" or not found or name.startswith("_vendor"):
            return
        functions[f"{name}: {frame.f_code.co_name}"] += 1
        if last not in ("", name):
            changes += 1
        last = name

    sys.setprofile(count)
    try:
        server.request("/stream/2")
    finally:
        sys.setprofile(None)
    for function, number in functions.most_common():
        print(f"{number:4}  {function}")
    print(f"{sum(functions.values())} calls, {changes} changes of module")


if __name__ == "__main__":
    main()
