"""The table of docs/servers.md: what the live tests run on, in this environment.

    python tests/live/table.py            print it
    python tests/live/table.py --write    put it into docs/servers.md
    python tests/live/table.py --check    exit 1 if docs/servers.md has other servers

Run it with the Python that has run the tests, .tox/live-newest/bin/python: the versions are those that are installed beside it. --check does not compare versions.
"""

import argparse
import sys
from importlib import metadata
from pathlib import Path
from platform import python_version

from servers import SERVERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "servers.md"


def table():
    """Markdown, a row for each server."""
    beside = ", ".join(f"{name} {_version(name)}" for name in ("sentry-sdk", "Django"))
    lines = [
        f"Python {python_version()}, {beside}:",
        "",
        "| server | versions | | requests at a time | application's threads run | waits for a slow client |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_row(name, server) for name, server in SERVERS.items()]
    return "\n".join(lines) + "\n"


def _row(name, server):
    needs = server.needs.split()
    if name.startswith("gunicorn") and "gunicorn" not in needs:
        needs.insert(0, "gunicorn")
    versions = ", ".join(f"{module} {_version(module)}" for module in needs)
    return "| `{}` | {} | {} | {} | {} | {} |".format(
        name,
        versions,
        server.interface.upper(),
        "many" if server.concurrent else "one",
        "yes" if server.threads else "no",
        "yes" if server.backpressure else "no",
    )


def _version(name):
    if name == "wsgiref":
        return "of Python"
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _without_versions(text):
    """What has to be the same everywhere: the second column and the first line left out."""
    rows = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    return "\n".join("|".join(row[:2] + row[3:]) for row in rows)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="put it into docs/servers.md")
    what.add_argument("--check", action="store_true", help="exit 1 if that has other servers")
    options = parser.parse_args()
    made = table()
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition("<!-- servers -->\n")
    found, end, after = rest.partition("<!-- /servers -->")
    if not end:
        sys.exit("docs/servers.md: expected the lines <!-- servers --> and <!-- /servers --> in it")
    if options.check and _without_versions(found) != _without_versions(made):
        sys.exit("docs/servers.md: other servers; next: python tests/live/table.py --write")
    if options.write and "(not installed)" in made:
        sys.exit("a server is not installed here; next: .tox/live-newest/bin/python " + sys.argv[0])
    if options.write:
        PAGE.write_text(before + begin + made + end + after, encoding="utf-8")
    elif not options.check:
        print(made, end="")


if __name__ == "__main__":
    main()
