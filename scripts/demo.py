#!/usr/bin/env python3
"""See what the package does: five streams, traced by the stock integration and by ours.

Builds this checkout and installs it with Django and gunicorn in a virtual environment in .cache,
serves a small Django project once with each integration, and shows side by side what a Sentry on
loopback has received: as text here, and as waterfalls on a page of HTML. No Sentry account is
needed. COLUMNS sets the width, NO_COLOR turns colours off.

Needs Python 3.8 or later with venv, a Unix (for gunicorn), and pip's package index.

Exit status: 0 all right, 1 ours has lost something, or a step has failed, 2 the command line.
"""

import os
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

import environment

PAGE = environment.ROOT / ".cache" / "demo.html"


def main() -> int:
    parser = environment.parser_of(__doc__, installs=True)
    add = parser.add_argument
    add("--lifecycle", choices=("static", "stream"), default="static", help="the SDK's (2.61.0)")
    add("--dsn", help="send to this Sentry, and print the trace ids, instead of comparing")
    add("--html", metavar="FILE", type=Path, default=PAGE, help=f"the page (default: {PAGE})")
    options = parser.parse_args()
    if options.lifecycle == "stream" and environment.numbers(options.sdk) < (2, 61, 0):
        parser.error(f"--lifecycle stream needs sentry-sdk 2.61.0, not {options.sdk}")
    parts = urlsplit(options.dsn or "https://key@host/1")
    if not (parts.scheme in ("http", "https") and parts.username and parts.hostname):
        parser.error(f"--dsn {options.dsn}: expected https://KEY@HOST/PROJECT")
    PAGE.parent.mkdir(exist_ok=True)
    if options.html.is_dir() or not os.access(str(options.html.resolve().parent), os.W_OK):
        parser.error(
            f"--html {options.html}: expected a file in a directory that can be written to"
        )
    # An exception, so that the server is ended on the way out.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda signum, frame: sys.exit(128 + signum))
    environment.go_inside(options, __file__, "demo", ["Django", "gunicorn", "requests", "rich"])
    sys.path.append(str(Path(__file__).resolve().parent / "demo_project"))
    import streams

    return streams.run(options.lifecycle, options.dsn, options.html.resolve())


if __name__ == "__main__":
    sys.exit(main())
