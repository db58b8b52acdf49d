"""What is wrong with this installation and this process, and what to change.

``python -m vendored_integration`` and Django's system checks (``manage.py check``) show
the same findings; :func:`findings` returns them, for a health view or a test.

Nothing is imported to be looked at: of the SDK, of Django and of the project only what
is there already. So this works where the package itself cannot be imported.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Any, Iterator, Sequence

from . import _provenance
from ._findings import FROM_WHEELS, LEVELS, Finding, make

__all__ = ["Finding", "findings"]


def findings(
    inits: Sequence[str] = (), application: tuple[str, Any] | None = None
) -> list[Finding]:
    """Return what is found in this process, errors first.

    :param inits: where ``sentry_sdk.init()`` has been called, in that order, if known.
    :param application: name and object of what the server calls; without it, what
        ``WSGI_APPLICATION`` and ``ASGI_APPLICATION`` name, if it has been imported.
    """
    paths = filter(None, map(setting, ("WSGI_APPLICATION", "ASGI_APPLICATION")))
    applications = [application] if application else [(path, imported(path)) for path in paths]
    found = [*installation(), *_process(inits, applications)]
    return sorted(found, key=lambda finding: list(LEVELS.values()).index(finding.level))


def django_messages() -> list[Any]:
    """Return the findings for Django's system checks.

    All of them as warnings. After an error no management command would run any more,
    ``migrate`` and ``runserver`` included: monitoring must not stop what it watches.
    """
    from django.core.checks import Warning

    try:
        return [
            Warning(finding.message, hint=finding.advice, id=finding.id)
            for finding in findings()
            # W006: a project may initialise the SDK in production only.
            if finding.level != "info" and not finding.id.endswith("W006")
        ]
    except Exception:
        from .runtime.process import internal_error

        internal_error("internal error while looking for what is wrong")
        return []


# -- the installation -------------------------------------------------------------------


def installation() -> list[Finding]:
    """Return what is wrong with what is installed."""
    provenance, differences, error = _provenance.look()
    if provenance is None:
        return [make("E002", error=error)]
    found = []
    built_for, sdk = provenance["upstream"]["version"], installed("sentry-sdk")
    if sdk != built_for:
        keep = sdk and (
            f'to keep the SDK: {FROM_WHEELS} "vendored-integration=={sdk}.*", or in a '
            f"checkout: SENTRY_SDK_VERSION={sdk} pip install .; "
        )
        other = f"sentry-sdk {sdk}" if sdk else "no sentry-sdk"
        found.append(make("E001", built_for=built_for, found=other, keep=keep or ""))
    if differences:
        names, version = ", ".join(differences), provenance["package"]["version"]
        found.append(make("E003", count=len(differences), names=names, version=version))
    return found


def installed(name: str) -> str | None:
    """Return a distribution's version; of the SDK, that of the one that is imported, if any."""
    if name == "sentry-sdk" and imported("sentry_sdk.consts.VERSION"):
        return str(imported("sentry_sdk.consts.VERSION"))
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# -- the process ------------------------------------------------------------------------


def imported(path: str) -> Any:
    """Return what a dotted path names, or ``()`` if it has not been imported.

    Nothing is an instance of ``()``, and nothing is in it.
    """
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, ())


def client() -> Any:
    """Return the SDK's client, or ``None`` if it has not been initialised."""
    get_client = imported("sentry_sdk.get_client")
    return get_client() if get_client and get_client().is_active() else None


def setting(name: str) -> Any:
    """Return a setting of the Django project, or ``None``."""
    settings = imported("django.conf.settings")
    return getattr(settings, name, None) if getattr(settings, "configured", False) else None


def set_up() -> str | None:
    """Return the package whose DjangoIntegration is set up in this process, for good."""
    if imported("vendored_integration.django._set_up"):
        return "vendored_integration"
    stock = "django" in imported("sentry_sdk.integrations._installed_integrations")
    return "sentry_sdk" if stock else None


def lifecycle(active: Any) -> str:
    """Return ``"static"`` or ``"stream"``."""
    if not imported("sentry_sdk.tracing.Transaction"):
        return "stream"  # from SDK 3.0 on there is no other
    streams = imported("sentry_sdk.tracing_utils.has_span_streaming_enabled")
    return "stream" if streams and streams(active.options) else "static"


def place(filename: str, line: int | None) -> str:
    """Return the name of a line of the project, such as ``mysite/settings.py:12``."""
    relative = os.path.relpath(filename)
    return f"{filename if relative.startswith(os.pardir) else relative}:{line}"


def _process(inits: Sequence[str], applications: Sequence[tuple[str, Any]]) -> Iterator[Finding]:
    from .runtime.workers import threads_can_run

    active = client()
    if active is None:
        yield make("W006")
    else:
        first, last = (inits[0], inits[-1]) if inits else ("", "")
        yield from _integration(active, first, last)
        yield from _options(active, last)
    if not threads_can_run():
        yield make("W003")
    for name, application in applications:
        yield from _stock_around(name, application)


def _integration(active: Any, first: str, last: str) -> Iterator[Finding]:
    """Which DjangoIntegration is set up, and which has the options."""
    ours_class = imported("vendored_integration.django.DjangoIntegration")
    passed = [one for one in active.options["integrations"] if one.identifier == "django"]
    ours = [one for one in passed if isinstance(one, ours_class)]
    stock = len(passed) > len(ours)
    in_force = active.get_integration("django")
    if in_force is None:
        yield make("E007", last)
    elif set_up() == "vendored_integration":
        if not isinstance(in_force, ours_class):
            yield make("W002", last)
        elif stock:
            yield make("W001", place(*in_force.made_at))
    elif isinstance(in_force, ours_class):
        yield make("E004", first)
    elif ours:
        yield make("E005", place(*ours[-1].made_at))
    else:
        instead = "instead of the DjangoIntegration of sentry_sdk.integrations.django, "
        yield make("E006", first, instead=instead if stock else "")


def _options(active: Any, last: str) -> Iterator[Finding]:
    if not imported("sentry_sdk.tracing_utils.has_tracing_enabled")(active.options):
        yield make("I001", last)
    if not active.options["dsn"]:
        yield make("I002", last)
    integration = active.get_integration("django")
    options = getattr(integration, "stream_options", None)
    if options and options.on_timeout == "continue" and lifecycle(active) == "stream":
        yield make("I003", place(*integration.made_at))


#: Attributes in which middlewares keep the application that they are around.
_INNER = ("app", "application", "inner", "_application", "wsgi_app", "__wrapped__")


def layers(application: Any) -> Iterator[Any]:
    """An application and those within it, as far as that can be seen."""
    while callable(application):
        yield application
        inner = (getattr(application, name, None) for name in _INNER)
        application = next(filter(callable, inner), None)


#: Stock middleware, and what may take its place.
_STOCK = {
    "sentry_sdk.integrations.wsgi.SentryWsgiMiddleware": (
        "vendored_integration.wsgi.SentryWsgiMiddleware"
    ),
    "sentry_sdk.integrations.asgi.SentryAsgiMiddleware": "vendored_integration.asgi.SentryMiddleware",
}


def _stock_around(name: str, application: Any) -> Iterator[Finding]:
    for layer in layers(application):
        for stock, ours in _STOCK.items():
            if isinstance(layer, imported(ours)):
                return  # what is within it does nothing
            if isinstance(layer, imported(stock)):
                yield make("W005", name, middleware=stock.rpartition(".")[2], ours=ours)
                return
        # The SDK's StarletteIntegration, which enables itself, wraps these when they are called.
        if isinstance(layer, imported("starlette.applications.Starlette")):
            active = client()
            if active and active.get_integration("starlette") and _mounts_django(layer):
                yield make("W007", name, framework=type(layer).__name__)
            return


def _mounts_django(application: Any) -> bool:
    """Whether a route of a Starlette application leads to Django's ASGI handler."""
    handler = imported("django.core.handlers.asgi.ASGIHandler")
    return any(
        isinstance(layer, handler) or any(map(_mounts_django, getattr(layer, "routes", None) or ()))
        for layer in layers(application)
    )
