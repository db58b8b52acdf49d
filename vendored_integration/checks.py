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
from typing import Any, Iterator, NamedTuple, Sequence

from . import _provenance

ERROR, WARNING, INFO = "error", "warning", "info"

_USE_OURS = (
    'integrations=[DjangoIntegration()], with "from vendored_integration import DjangoIntegration"'
)
#: The package is not on PyPI.
_FROM_WHEELS = "pip install --find-links DIRECTORY_OF_YOUR_WHEELS"
_LOST = "streaming responses are not traced"

#: By the last part of its id: what a finding says, and what to change. E: the package
#: does not work; W: something is lost; I: good to know.
CATALOGUE = {
    "E001": (
        "this build is for sentry-sdk {built_for}, but {found}: it refuses to be imported",
        '{keep}to keep this build: pip install "sentry-sdk=={built_for}"',
    ),
    "E002": (
        "{error}",
        f"{_FROM_WHEELS} --force-reinstall vendored-integration",
    ),
    "E003": (
        "{count} vendored files are not as they were built: {names}",
        f"{_FROM_WHEELS} --force-reinstall --no-deps --no-cache-dir {{package}}=={{version}}",
    ),
    "E004": (
        "an earlier sentry_sdk.init() of this process has set up the stock DjangoIntegration, "
        f"which the SDK does not replace: {_LOST}",
        "the first sentry_sdk.init() of the process needs " + _USE_OURS,
    ),
    "E005": (
        "integrations=[...] has the stock DjangoIntegration after ours, and the SDK takes the "
        f"last one: {_LOST}",
        "remove the DjangoIntegration of sentry_sdk.integrations.django from integrations=[...]",
    ),
    "E006": (
        f"sentry_sdk.init() was called without our DjangoIntegration: {_LOST}",
        "{instead}the sentry_sdk.init() needs " + _USE_OURS,
    ),
    "E007": (
        "sentry_sdk.init() has set up no DjangoIntegration at all: no request is traced",
        f"the sentry_sdk.init() needs {_USE_OURS}, and no DjangoIntegration among its "
        "disabled_integrations",
    ),
    "E008": (
        "{name} cannot be loaded: {error}",
        "{next}",
    ),
    "W001": (
        "integrations=[...] has the stock DjangoIntegration, too; the SDK takes the last one, "
        "which is ours",
        "remove the DjangoIntegration of sentry_sdk.integrations.django from integrations=[...]",
    ),
    "W002": (
        "a later sentry_sdk.init() was called without our DjangoIntegration: its options are "
        "not in force, but the defaults",
        "each sentry_sdk.init() of the process needs " + _USE_OURS,
    ),
    "W003": (
        "uWSGI runs no threads in this process: expired responses are found by later requests, "
        "and the SDK sends while a request runs",
        "enable-threads = true in uWSGI's configuration, or --enable-threads",
    ),
    "W004": (
        "context variables do not work with this gevent or eventlet: streaming responses are "
        "traced as in stock, and nothing is counted",
        'pip install --upgrade "gevent>=20.9" (or eventlet and greenlet)',
    ),
    "W005": (
        "a stock {middleware} is around the application, and takes its requests: {effect}",
        "remove it, DjangoIntegration applies its own; or take {ours}",
    ),
    "W006": (
        "sentry_sdk.init() has not been called: nothing is traced",
        "call it in the settings; if the module that your server loads does: "
        "python -m vendored_integration mysite.wsgi",
    ),
    "I001": (
        "tracing is off: errors are sent, transactions are not",
        "the sentry_sdk.init() needs traces_sample_rate=1.0, or a traces_sampler",
    ),
    "I002": (
        "the SDK has no DSN: nothing is sent",
        'the sentry_sdk.init() needs dsn="...", or the environment SENTRY_DSN=...',
    ),
    "I003": (
        'on_timeout="continue" makes no parts in the stream lifecycle: spans are sent one by '
        "one, and a stream keeps one segment until it ends",
        "nothing, unless parts are wanted: then no trace_lifecycle",
    ),
}

#: Not a fault where a project initialises the SDK in production only: `manage.py` does not
#: say it each time.
_REPORT_ONLY = "vendored_integration.W006"


class Finding(NamedTuple):
    """Something that was found, and what to change."""

    #: ``vendored_integration.E001`` and so on; see docs/checks.md.
    id: str
    #: ``"error"``, ``"warning"`` or ``"info"``.
    level: str
    message: str
    #: File and line to change, or a name; empty if it is not known.
    where: str
    #: What to change there, or which command to run.
    hint: str

    @property
    def advice(self) -> str:
        """Where to change what."""
        return f"{self.where}: {self.hint}" if self.where else self.hint


def make(number: str, where: str = "", **values: Any) -> Finding:
    """Make a finding of the catalogue."""
    message, hint = CATALOGUE[number]
    level = {"E": ERROR, "W": WARNING, "I": INFO}[number[0]]
    return Finding(
        f"vendored_integration.{number}",
        level,
        message.format(**values),
        where,
        hint.format(**values),
    )


def findings(
    inits: Sequence[str] = (), application: tuple[str, Any] | None = None
) -> list[Finding]:
    """Return what is found in this process, errors first.

    :param inits: where ``sentry_sdk.init()`` has been called, in that order, if known.
    :param application: name and object of what the server calls; without it, what
        ``WSGI_APPLICATION`` and ``ASGI_APPLICATION`` name, if it has been imported.
    """
    found = installation(*_provenance.look())
    if all(finding.id[-4:] not in ("E001", "E002") for finding in found):
        found += _process(inits, [application] if application else _applications())
    return sorted(found, key=lambda finding: "EWI".index(finding.id[-4]))


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
            if finding.level != INFO and finding.id != _REPORT_ONLY
        ]
    except Exception:
        from .runtime.log import internal_error

        internal_error("internal error while looking for what is wrong")
        return []


# -- the installation -------------------------------------------------------------------


def installation(
    provenance: dict[str, Any] | None, differences: dict[str, str], error: str
) -> list[Finding]:
    """Return what is wrong with the installed files; takes what ``_provenance.look`` returns."""
    if provenance is None:
        return [make("E002", error=error)]
    found = []
    package, built_for = provenance["package"], provenance["upstream"]["version"]
    sdk = installed_sdk()
    if sdk != built_for:
        found.append(
            make(
                "E001",
                built_for=built_for,
                found=f"sentry-sdk {sdk} is installed" if sdk else "no sentry-sdk is installed",
                keep=f'to keep the SDK: {_FROM_WHEELS} "vendored-integration=={sdk}.*", or in a '
                f"checkout: SENTRY_SDK_VERSION={sdk} pip install .; "
                if sdk
                else "",
            )
        )
    if differences:
        found.append(
            make(
                "E003",
                count=len(differences),
                names=", ".join(differences),
                package=package["name"],
                version=package["version"],
            )
        )
    return found


def installed_sdk() -> str | None:
    """Return the SDK's release: of the one that is imported, or would be."""
    imported: str | None = getattr(sys.modules.get("sentry_sdk.consts"), "VERSION", None)
    return imported or installed("sentry-sdk")


def installed(name: str) -> str | None:
    """Return a distribution's version, without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# -- the process ------------------------------------------------------------------------


def client() -> Any:
    """Return the SDK's client, or ``None`` if it has not been initialised."""
    sdk = sys.modules.get("sentry_sdk")
    found = sdk.get_client() if sdk else None
    return found if found is not None and found.is_active() else None


def _process(inits: Sequence[str], applications: Sequence[tuple[str, Any]]) -> Iterator[Finding]:
    active = client()
    if active is None:
        yield make("W006")
    else:
        yield from _integration(active, inits)
        yield from _options(active, inits)
    yield from _server()
    for name, application in applications:
        yield from _stock_around(name, application)


def set_up() -> str | None:
    """Return the package whose DjangoIntegration is set up in this process, for good."""
    sdk = sys.modules.get("sentry_sdk.integrations")
    if getattr(sys.modules.get("vendored_integration.django"), "_set_up", False):
        return "vendored_integration"
    return "sentry_sdk" if sdk and "django" in sdk._installed_integrations else None


def _integration(active: Any, inits: Sequence[str]) -> Iterator[Finding]:
    """Which DjangoIntegration is set up, and which has the options."""
    ours_class: Any = _class("vendored_integration.django", "DjangoIntegration")
    first, last = (inits[0], inits[-1]) if inits else ("", "")
    passed = [
        integration
        for integration in active.options.get("integrations") or ()
        if getattr(integration, "identifier", None) == "django"
    ]
    ours = [integration for integration in passed if isinstance(integration, ours_class)]
    stock = len(passed) > len(ours)
    in_force = active.get_integration("django")
    if set_up() == "vendored_integration":
        if in_force is None:
            yield make("E007", last)
        elif not isinstance(in_force, ours_class):
            yield make("W002", last)
        elif stock:
            yield make("W001", _made_at(in_force))
    elif set_up() is None:
        yield make("E007", last)
    elif isinstance(in_force, ours_class):
        yield make("E004", first)
    elif ours:
        yield make("E005", _made_at(ours[-1]))
    else:
        instead = "instead of the DjangoIntegration of sentry_sdk.integrations.django, "
        yield make("E006", first, instead=instead if stock else "")


def _made_at(integration: Any) -> str:
    made_at = getattr(integration, "made_at", None)
    return place(*made_at) if made_at else ""


def place(filename: str, line: int) -> str:
    """Return the name of a line of the project, such as ``mysite/settings.py:12``."""
    relative = os.path.relpath(filename)
    return f"{filename if relative.startswith(os.pardir) else relative}:{line}"


def _options(active: Any, inits: Sequence[str]) -> Iterator[Finding]:
    from sentry_sdk.tracing_utils import has_tracing_enabled

    where = inits[-1] if inits else ""
    if not has_tracing_enabled(active.options):
        yield make("I001", where)
    if not active.options.get("dsn"):
        yield make("I002", where)
    integration = active.get_integration("django")
    options = getattr(integration, "stream_options", None)
    if options and options.on_timeout == "continue" and lifecycle(active) == "stream":
        yield make("I003", _made_at(integration))


def lifecycle(active: Any) -> str:
    """Return ``"static"`` or ``"stream"``."""
    import sentry_sdk.tracing_utils

    streams: Any = getattr(sentry_sdk.tracing_utils, "has_span_streaming_enabled", None)
    return "stream" if streams and streams(active.options) else "static"


def _server() -> Iterator[Finding]:
    from .runtime.scheduler import threads_can_run
    from .runtime.sdk import contextvars_work

    if not threads_can_run():
        yield make("W003")
    if not contextvars_work():
        yield make("W004")


def _applications() -> list[tuple[str, Any]]:
    """What the project's settings say that the server calls, if it has been imported."""
    found = []
    for name in ("WSGI_APPLICATION", "ASGI_APPLICATION"):
        path = setting(name)
        if isinstance(path, str):
            module, _, attribute = path.rpartition(".")
            found.append((path, getattr(sys.modules.get(module), attribute, None)))
    return found


def setting(name: str) -> Any:
    """Return a setting of the Django project, or ``None``."""
    settings = getattr(sys.modules.get("django.conf"), "settings", None)
    return getattr(settings, name, None) if settings is not None and settings.configured else None


#: Attributes in which middlewares keep the application that they are around.
_INNER = ("app", "application", "inner", "_application", "wsgi_app", "__wrapped__")
#: More than that many layers are a circle.
_MAX_LAYERS = 50


def layers(application: Any) -> Iterator[Any]:
    """An application and those within it, as far as that can be seen."""
    for _ in range(_MAX_LAYERS):
        if not callable(application):
            return
        yield application
        application = next(
            filter(callable, (_attribute(application, name) for name in _INNER)), None
        )


def _attribute(value: Any, name: str) -> Any:
    try:
        return getattr(value, name, None)
    except Exception:
        return None  # a property of somebody else's


#: Stock middlewares: module and class, what is lost, and what may take their place.
_STOCK = (
    (
        "sentry_sdk.integrations.wsgi",
        "SentryWsgiMiddleware",
        _LOST,
        "vendored_integration.wsgi.SentryWsgiMiddleware",
    ),
    (
        "sentry_sdk.integrations.asgi",
        "SentryAsgiMiddleware",
        "nothing tells how streaming responses end",
        "vendored_integration.asgi.SentryMiddleware",
    ),
)


def _stock_around(name: str, application: Any) -> Iterator[Finding]:
    ours = (
        _class("vendored_integration._vendor.wsgi", "SentryWsgiMiddleware"),
        _class("vendored_integration.runtime.asgi", "SentryAsgiMiddleware"),
    )
    for layer in layers(application):
        if isinstance(layer, ours):
            return  # what is within it does nothing
        for module, kind, effect, better in _STOCK:
            if isinstance(layer, _class(module, kind)):
                yield make("W005", name, middleware=kind, effect=effect, ours=better)
                return


class _Nothing:
    """In place of a class whose module has not been imported: nothing is an instance."""


def _class(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, _Nothing)
