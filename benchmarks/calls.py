#!/usr/bin/env python3
"""Count what a streaming WSGI request calls of this package.

    python benchmarks/calls.py        in an environment with Django and the package

The second request of a process, sampled, two chunks: iterated, and closed.
"""

import argparse
import cProfile
import pstats
import sys
from pathlib import Path


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parent / "worker"))
    from serve import Server  # type: ignore[import-not-found]

    server = Server("ours", 1)
    server.request("/stream/2")
    profile = cProfile.Profile()
    profile.runcall(server.request, "/stream/2")
    ours = r"vendored_integration/(?!_vendor)"
    pstats.Stats(profile).sort_stats("ncalls").print_stats(ours)


if __name__ == "__main__":
    main()
