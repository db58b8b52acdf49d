"""What can be wrong, and what to change then. :mod:`.checks` looks for it."""

from __future__ import annotations

from typing import Any, NamedTuple

#: By the first letter of a finding's number.
LEVELS = {"E": "error", "W": "warning", "I": "info"}

_USE_OURS = (
    'integrations=[DjangoIntegration()], with "from vendored_integration import DjangoIntegration"'
)
_REMOVE_STOCK = (
    "remove the DjangoIntegration of sentry_sdk.integrations.django from integrations=[...]"
)
#: The package is not on PyPI.
FROM_WHEELS = "pip install --find-links DIRECTORY_OF_YOUR_WHEELS"
_LOST = "streaming responses are not traced"

#: By the last part of its id: what a finding says, and what to change. E: the package
#: does not work; W: something is lost; I: good to know.
CATALOGUE = {
    "E001": (
        "this build is for sentry-sdk {built_for}, but {found} is installed: it refuses to be imported",
        '{keep}to keep this build: pip install "sentry-sdk=={built_for}"',
    ),
    "E002": ("{error}", f"{FROM_WHEELS} --force-reinstall vendored-integration"),
    "E003": (
        "{count} vendored files are not as they were built: {names}",
        f"{FROM_WHEELS} --force-reinstall --no-deps --no-cache-dir "
        "vendored-integration=={version}",
    ),
    "E004": (
        "an earlier sentry_sdk.init() of this process has set up the stock DjangoIntegration, "
        f"which the SDK does not replace: {_LOST}",
        "the first sentry_sdk.init() of the process needs " + _USE_OURS,
    ),
    "E005": (
        "integrations=[...] has the stock DjangoIntegration after ours, and the SDK takes the "
        f"last one: {_LOST}",
        _REMOVE_STOCK,
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
        "mend this, or name something else, from the directory that has manage.py; "
        "manage.py check shows the whole traceback",
    ),
    "W001": (
        "integrations=[...] has the stock DjangoIntegration, too; the SDK takes the last one, "
        "which is ours",
        _REMOVE_STOCK,
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
    "W005": (
        "a stock {middleware} is around the application, and takes its requests: nothing tells "
        "how streaming responses end",
        "remove it, DjangoIntegration applies its own; or take {ours}",
    ),
    "W006": (
        "sentry_sdk.init() has not been called: nothing is traced",
        "call it in the settings; if the module that your server loads does: "
        "python -m vendored_integration mysite.wsgi",
    ),
    "W007": (
        "Django's application is mounted in a {framework} application, around which the SDK puts "
        "its own middleware: nothing tells how Django's streaming responses end",
        "serve SentryMiddleware(...) around the whole, with "
        '"from vendored_integration.asgi import SentryMiddleware"',
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
        "nothing, unless parts are wanted: only SDK 2 without trace_lifecycle has them",
    ),
}


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

    def __str__(self) -> str:
        return f"{self.message}; next: {self.advice}"


def make(number: str, where: str = "", **values: Any) -> Finding:
    """Make a finding of the catalogue."""
    message, hint = (text.format(**values) for text in CATALOGUE[number])
    return Finding(f"vendored_integration.{number}", LEVELS[number[0]], message, where, hint)
