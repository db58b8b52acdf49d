"""Print what this build of vendored-integration carries, and look for what is wrong.

That is: from which sentry-sdk it was made, what is installed beside it, and whether the
vendored files are still as they were built. With a Django project, also what its settings
and its application make of a process: which integration is set up, with which options.

  python -m vendored_integration --settings mysite.settings
  python -m vendored_integration mysite.wsgi

The settings run as they do at the start of a server, and so does the application's module.

Exit status: 0 all right, 1 something is wrong. It is told last, with an id, which the
project's SILENCED_SYSTEM_CHECKS may name.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import sys
import traceback
from typing import Any, Iterator, Sequence
from unittest import mock

from . import _provenance, checks
from ._findings import Finding, make

SETTINGS = "DJANGO_SETTINGS_MODULE"


def load(wanted: str | None, inits: list[str]) -> tuple[str, Any] | Finding | None:
    """Run the project's settings, Django's setup, and the application's module.

    :param wanted: what the server is told: ``mysite.wsgi``, ``mysite.wsgi:app``.
    :param inits: gets the places where ``sentry_sdk.init()`` is called.
    :return: name and object of the application; or what could not be loaded.
    """
    name = os.environ.get(SETTINGS, "")
    try:
        # What these print must not get into the JSON.
        with contextlib.redirect_stdout(sys.stderr), _recording(inits):
            if name:
                import django

                django.setup()
            if not wanted:
                return None
            name = wanted
            module, _, attribute = wanted.partition(":")
            attribute = attribute or "application"
            return f"{module}:{attribute}", getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        text = traceback.format_exception_only(type(error), error)[-1].strip()
        return make("E008", _project_line(error), name=name, error=text)


def _recording(inits: list[str]) -> Any:
    """Patch the SDK: record where it is initialised, which is the line to change."""
    from sentry_sdk.client import _Client

    init = _Client.__init__

    def record(self: Any, *args: Any, **kwargs: Any) -> None:
        frame = sys._getframe(1)
        while frame.f_back and frame.f_globals.get("__name__", "").startswith("sentry_sdk."):
            frame = frame.f_back
        inits.append(checks.place(frame.f_code.co_filename, frame.f_lineno))
        init(self, *args, **kwargs)

    return mock.patch.object(_Client, "__init__", record)


def _project_line(error: BaseException) -> str:
    """Return the last line of the project that an error has come through, if there is one."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    package, project = os.path.dirname(__file__), os.getcwd() + os.sep
    for filename, line in reversed(places):
        of_project = filename.startswith(project) and not filename.startswith(package)
        if of_project and "site-packages" not in filename:
            return checks.place(filename, line)
    return ""


def _process(inits: list[str], application: tuple[str, Any] | None) -> dict[str, Any]:
    """Return what the project has made of this process."""
    from .runtime.sdk import options_of_integration
    from .runtime.stats import stats

    client = checks.client()
    ours = checks.set_up() == "vendored_integration"
    told: dict[str, Any] = {
        "settings": os.environ.get(SETTINGS),
        "application": application and application[0],
        "inits": inits,
        "integration": checks.set_up(),
        "options": options_of_integration()._asdict() if ours else None,
        "stats": stats().as_dict(),
    }
    for name in "WSGI_APPLICATION", "ASGI_APPLICATION":
        told[name] = checks.setting(name)
    if client:
        told["trace_lifecycle"] = checks.lifecycle(client)
        told["traces_sample_rate"] = client.options["traces_sample_rate"]
        told["traces_sampler"] = bool(client.options["traces_sampler"])
    return told


def report(wanted: str | None = None) -> dict[str, Any]:
    """All that is printed, as data; `problems` is empty where all is right."""
    provenance, differences, _ = _provenance.look()
    found, process = checks.installation(), None
    # With another SDK the package cannot be imported: that is said, and mended first.
    broken = any(finding.id.endswith(("E001", "E002")) for finding in found)
    if (wanted or os.environ.get(SETTINGS)) and not broken:
        inits: list[str] = []
        application = load(wanted, inits)
        if isinstance(application, Finding):
            found.append(application)
        else:
            silenced = checks.setting("SILENCED_SYSTEM_CHECKS") or ()
            found = [one for one in checks.findings(inits, application) if one.id not in silenced]
            process = _process(inits, application)
    installed: dict[str, Any] = {"vendored-integration": None}
    if provenance:
        installed["vendored-integration"] = provenance["package"]["version"]
    installed.update((name, checks.installed(name)) for name in ("sentry-sdk", "Django"))
    problems = [str(finding) for finding in found if finding.level != "info"]
    return {
        "installed": {**installed, "Python": platform.python_version()},
        "provenance": provenance,
        "differences": differences,
        "process": process,
        "findings": [finding._asdict() for finding in found],
        "problems": problems,
        "ok": not problems,
    }


def _lines(found: dict[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = dict(enumerate(value, 1))
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {'none' if value in (None, [], {}) else value}"


def _text(found: dict[str, Any]) -> Iterator[str]:
    """The lines of a report, for people. The last one says whether there is a problem."""
    for name in "installed", "provenance", "differences", "process":
        yield from _lines({name: found[name]})
    # Problems come last.
    for finding in sorted(found["findings"], key=lambda finding: finding["level"] != "info"):
        kind = "info" if finding["level"] == "info" else "problem"
        yield f"{kind}: {Finding(**finding)} ({finding['id']})"
    if found["ok"] and not found["process"]:
        yield "No project was looked at; next: python -m vendored_integration --settings mysite.settings"
    if found["ok"]:
        yield "ok"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        "python -m vendored_integration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="for machines, with the same content")
    parser.add_argument(
        "--settings", metavar="MODULE", help=f"of the project; default: ${SETTINGS}"
    )
    parser.add_argument("application", nargs="?", help="what the server loads: mysite.wsgi:app")
    args = parser.parse_args(argv)
    if args.settings:
        os.environ[SETTINGS] = args.settings
    found = report(args.application)
    print(json.dumps(found, indent=2) if args.json else "\n".join(_text(found)))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
