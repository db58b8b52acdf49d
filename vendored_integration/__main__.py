"""What is installed here, and whether it works: `python -m vendored_integration`.

Says what this build carries, from which sentry-sdk it was made, what is installed
beside it, and whether the vendored files are still as they were built. With a Django
project, also what becomes of that in a process: which integration is set up, with
which options, and what has to be changed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import json
import os
import platform
import sys
import traceback
from typing import Any, Iterator, Sequence

from . import _provenance, checks

DESCRIPTION = """\
Print what this build of vendored-integration carries and what is installed beside it,
verify the vendored files, and look for what is wrong.

With a Django project, as its settings and its application set it up:

  python -m vendored_integration --settings mysite.settings
  python -m vendored_integration mysite.wsgi

The settings run as they do at the start of a server, and so does the application's module.

Exit status: 0 all right, 1 something is wrong. It is told last, with an id, which the
project's SILENCED_SYSTEM_CHECKS may name.
"""

SETTINGS = "DJANGO_SETTINGS_MODULE"
EXAMPLE = "python -m vendored_integration --settings mysite.settings"


class Project:
    """The Django project that was asked for, loaded into this process."""

    def __init__(self, application: str | None) -> None:
        """
        :param application: what the server is told: ``mysite.wsgi``, ``mysite.wsgi:app``.
        """
        self._wanted = application
        self.application: tuple[str, Any] | None = None
        #: Where ``sentry_sdk.init()`` was called, as ``file:line``.
        self.inits: list[str] = []
        #: What could not be loaded.
        self.failure: checks.Finding | None = None

    def load(self) -> None:
        """Run the project's settings, Django's setup, and the application's module."""
        # What these print must not get into the JSON.
        with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as recording:
            self._try("sentry_sdk", lambda: recording.enter_context(_recorded_inits(self.inits)))
            if os.environ.get(SETTINGS):
                self._try(os.environ[SETTINGS], _set_up_django)
            if self._wanted:
                self._try(self._wanted, self._load_application)

    def _load_application(self) -> None:
        assert self._wanted is not None
        module, _, name = self._wanted.partition(":")
        name = name or "application"
        self.application = (f"{module}:{name}", getattr(importlib.import_module(module), name))

    def _try(self, name: str, load: Any) -> None:
        if self.failure:
            return
        try:
            load()
        except (Exception, SystemExit) as error:
            self.failure = _not_loaded(name, error)

    def report(self) -> dict[str, Any]:
        """Return the state of this process."""
        from .runtime.sdk import options_of_integration
        from .runtime.stats import stats

        client = checks.client()
        set_up = checks.set_up()
        ours = set_up == "vendored_integration"
        return {
            "settings": os.environ.get(SETTINGS),
            "application": self.application and self.application[0],
            "interface": self.application and _interface(self.application[1]),
            "WSGI_APPLICATION": checks.setting("WSGI_APPLICATION"),
            "ASGI_APPLICATION": checks.setting("ASGI_APPLICATION"),
            "inits": self.inits,
            "integration": set_up,
            "options": options_of_integration()._asdict() if ours else None,
            "trace_lifecycle": client and checks.lifecycle(client),
            "traces_sample_rate": client and client.options.get("traces_sample_rate"),
            "traces_sampler": bool(client and client.options.get("traces_sampler")),
            "stats": stats().as_dict(),
        }


def _set_up_django() -> None:
    import django

    django.setup()


@contextlib.contextmanager
def _recorded_inits(inits: list[str]) -> Iterator[None]:
    """Record where the SDK is initialised: the line to change."""
    from sentry_sdk.client import _Client

    init = _Client.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        frame = sys._getframe(1)
        while frame.f_back and frame.f_globals.get("__name__", "").startswith("sentry_sdk."):
            frame = frame.f_back
        inits.append(checks.place(frame.f_code.co_filename, frame.f_lineno))
        init(self, *args, **kwargs)

    _Client.__init__ = __init__  # type: ignore[method-assign]
    try:
        yield
    finally:
        _Client.__init__ = init  # type: ignore[method-assign]


def _not_loaded(name: str, error: BaseException) -> checks.Finding:
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        where = checks.place(error.filename, error.lineno or 0)
    else:
        # Not the last line of all: it may be Django that raises.
        frame = next(filter(_is_of_project, reversed(frames)), None)
        where = checks.place(frame.filename, frame.lineno or 0) if frame else ""
    wrong_name = frames[-1].filename == __file__ or (
        isinstance(error, ModuleNotFoundError) and name.startswith(error.name or " ")
    )
    return checks.make(
        "E008",
        "" if wrong_name else where,
        name=name,
        error=traceback.format_exception_only(type(error), error)[-1].strip(),
        next="give another name, and run this in the directory that has manage.py"
        if wrong_name
        else "mend this; the server's start, or manage.py check, shows the whole traceback",
    )


def _is_of_project(frame: traceback.FrameSummary) -> bool:
    return (
        os.path.abspath(frame.filename).startswith(os.getcwd() + os.sep)
        and frame.filename != __file__
        and "site-packages" not in frame.filename
        and not frame.filename.startswith("<")
    )


def _interface(application: Any) -> str:
    for layer in checks.layers(application):
        if inspect.iscoroutinefunction(layer) or inspect.iscoroutinefunction(
            getattr(layer, "__call__", None)  # noqa: B004
        ):
            return "asgi"
    return "wsgi"


def report(application: str | None = None) -> dict[str, Any]:
    """All that is printed, as data; `problems` is empty where all is right."""
    provenance, differences, error = _provenance.look()
    found = checks.installation(provenance, differences, error)
    asked_for = application or os.environ.get(SETTINGS)
    process = None
    # With another SDK the package cannot be imported: that is said, and mended first.
    if asked_for and all(finding.id[-4:] not in ("E001", "E002") for finding in found):
        project = Project(application)
        project.load()
        if project.failure:
            found.append(project.failure)
        else:
            found = checks.findings(project.inits, project.application)
            silenced = checks.setting("SILENCED_SYSTEM_CHECKS") or ()
            found = [finding for finding in found if finding.id not in silenced]
            process = project.report()
    problems = [finding for finding in found if finding.level != checks.INFO]
    return {
        "ok": not problems,
        "problems": [f"{finding.message}; next: {finding.advice}" for finding in problems],
        "findings": [finding._asdict() for finding in found],
        "installed": {
            "vendored-integration": provenance and provenance["package"]["version"],
            "sentry-sdk": checks.installed_sdk(),
            "Django": checks.installed("Django"),
            "Python": platform.python_version(),
        },
        "provenance": provenance,
        "differences": differences,
        "asked_for": asked_for,
        "process": process,
    }


def _text(found: dict[str, Any]) -> str:
    lines = []
    for name, version in found["installed"].items():
        lines.append(f"{name:21} {version or 'not installed'}")
    stated = found["provenance"]
    if stated:
        lines[0] += f", built for sentry-sdk {stated['upstream']['version']}"
        lines += _carried(stated, found["differences"])
    lines.append("")
    if found["process"]:
        lines += [*_process(found["process"]), ""]
    elif not found["asked_for"]:
        lines += ["No project was looked at; next: " + EXAMPLE, ""]
    findings = [checks.Finding(**finding) for finding in found["findings"]]
    # The problems come last: the last line says whether there is one.
    for finding in sorted(findings, key=lambda finding: finding.level != checks.INFO):
        kind = "info" if finding.level == checks.INFO else "problem"
        lines.append(f"{kind}: {finding.message}; next: {finding.advice} ({finding.id})")
    return "\n".join(lines if found["problems"] else [*lines, "ok"])


def _carried(stated: dict[str, Any], differences: dict[str, str]) -> list[str]:
    upstream = stated["upstream"]
    lines = [
        "",
        f"Made from {upstream['name']} {upstream['version']}, licence {upstream['license']}:",
        f"  {upstream['sha256']}  {upstream['wheel']}",
        f"  {upstream['license_sha256']}  its LICENSE",
        f"Patched by {stated['directory']}:",
        *(f"  {patch['sha256']}  {patch['name']}" for patch in stated["patches"]),
        "Upstream's files:",
    ]
    files = stated["files"]
    lines += [f"  {files[n]['upstream']}  {n}" for n in sorted(files) if "upstream" in files[n]]
    lines.append("Vendored files, in vendored_integration/_vendor/:")
    for name in sorted({*files, *differences}):
        if name in differences:
            lines.append(f"  {name}: {differences[name]}")
        else:
            lines.append(f"  {files[name]['vendored']}  {name}  ok")
    return lines


def _process(process: dict[str, Any]) -> list[str]:
    """What the project has made of this process."""
    stats = process["stats"]
    options = process["options"] or {}
    sampling = "by a traces_sampler" if process["traces_sampler"] else process["traces_sample_rate"]
    interface = (process["interface"] or "").upper()
    ended = {
        f"{kind} {outcome}": number
        for kind in ("streaming", "plain")
        for outcome, number in stats[kind].items()
        if number
    }
    rows = {
        "settings": process["settings"] or "none",
        "application": f"{process['application']}, {interface}"
        if interface
        else f"not loaded; WSGI_APPLICATION = {process['WSGI_APPLICATION']!r}, "
        f"ASGI_APPLICATION = {process['ASGI_APPLICATION']!r}",
        "sentry_sdk.init()": ", ".join(process["inits"]) or "not called",
        "integration": f"that of {process['integration']}" if process["integration"] else "none",
        "options": ", ".join(f"{name}={value!r}" for name, value in options.items()) or "none",
        "traces_sample_rate": str(sampling),
        "trace_lifecycle": process["trace_lifecycle"] or "none",
        "responses": f"{stats['open_responses']} open, "
        f"at most {stats['peak_open_responses']}, {ended or 'none'} ended",
        "faults of our own": str(stats["internal_errors"]),
    }
    return [
        f"This process, {stats['pid']}:",
        *(f"  {name:19} {value}" for name, value in rows.items()),
    ]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m vendored_integration",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="for machines, with the same content")
    parser.add_argument(
        "--settings",
        metavar="MODULE",
        help=f"of the Django project to look at, such as mysite.settings; default: ${SETTINGS}",
    )
    parser.add_argument(
        "application",
        nargs="?",
        metavar="APPLICATION",
        help="what the server loads, as it is told: mysite.wsgi, or mysite.asgi:application",
    )
    args = parser.parse_args(argv)
    if args.settings:
        os.environ[SETTINGS] = args.settings
    found = report(args.application)
    print(json.dumps(found, indent=2) if args.json else _text(found))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
