#!/usr/bin/env python3
"""See what the package does: five streams, traced by the stock integration and by ours.

Builds this checkout and installs it with Django and gunicorn in a virtual environment in .cache,
serves a small Django project once with each integration, and shows side by side what a Sentry on
loopback has received: as text here, and as waterfalls on a page of HTML. No Sentry account is
needed. COLUMNS sets the width, NO_COLOR turns colours off.

Needs Python 3.8 or later with venv, a Unix (for gunicorn), and pip's package index.

Exit status: 0 all right, 1 ours has lost something, 2 this machine or the command line lacks
something.
"""

import argparse
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import supported
from upstream.environment import ROOT, Refused, call, clean_environ, make_environment, pip, say

REQUIREMENTS = ["Django", "gunicorn", "requests", "rich"]
PAGE = ROOT / ".cache" / "demo.html"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    supported.add_option(parser)
    add("--lifecycle", choices=("static", "stream"), default="static", help="the SDK's (2.61.0)")
    add("--dsn", help="send to this Sentry, and print the trace ids, instead of comparing")
    add("--html", metavar="FILE", type=Path, default=PAGE, help=f"the page (default: {PAGE})")
    options = parser.parse_args()
    newest = options.lifecycle == "static" or not options.sdk
    if not newest and supported.numbers(options.sdk) < (2, 61, 0):
        parser.error(f"--lifecycle stream needs sentry-sdk 2.61.0, not {options.sdk}")
    parts = urlsplit(options.dsn or "https://key@host/1")
    if not (parts.scheme in ("http", "https") and parts.username and parts.hostname):
        parser.error(f"--dsn {options.dsn}: expected https://KEY@HOST/PROJECT")
    page = options.html.resolve()
    (ROOT / ".cache").mkdir(exist_ok=True)
    if page.is_dir() or not os.access(str(page.parent), os.W_OK):
        parser.error(f"--html {page}: expected a file in a directory that can be written to")
    try:
        python = str(make_environment("demo", REQUIREMENTS))
        release = {"SENTRY_SDK_VERSION": options.sdk} if options.sdk else {}
        say(f"building this checkout for sentry-sdk {options.sdk or '(the newest)'}")
        call([*pip(Path(python), "install"), str(ROOT)], "could not install", **release)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    command = [python, str(ROOT / "scripts" / "demo_project" / "run.py")]
    command += [f"--lifecycle={options.lifecycle}", f"--html={page}"]
    command += [f"--dsn={options.dsn}"] if options.dsn else []
    # The SDK would send through a proxy what is for loopback.
    return os.execve(python, command, {**clean_environ(), "NO_PROXY": "127.0.0.1"})


if __name__ == "__main__":
    sys.exit(main())
