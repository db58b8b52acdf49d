"""pytest plugin: our modules in the place of the SDK's, before any test is imported.

After it, ``sentry_sdk.integrations.django`` (with every module below it) and
``sentry_sdk.integrations.wsgi`` are the vendored ones, whichever way they are imported,
and their ``DjangoIntegration`` and ``SentryWsgiMiddleware`` are the classes that this
project exports.
"""

import importlib
import pkgutil
import sys
from typing import Iterator, Tuple

# isort: off
# Upstream's, from the current directory. It begins to record warnings, and refuses to be
# imported after the SDK.
import tests  # noqa: F401

# Before the swap: our modules take what they share with the stock ones from those.
import vendored_integration._vendor as vendor
import vendored_integration.django
import vendored_integration.wsgi
from vendored_integration._vendor import django, wsgi
# isort: on

OURS = "vendored_integration._vendor"
STOCK = "sentry_sdk.integrations"


def _pairs() -> "Iterator[Tuple[str, str]]":
    """The names of each vendored module, ours and stock's; packages come first."""
    for found in pkgutil.walk_packages(vendor.__path__, OURS + "."):
        yield found.name, STOCK + found.name[len(OURS) :]


def swap() -> None:
    """Put the vendored modules into ``sys.modules`` and onto their parent package."""
    for name, stock_name in _pairs():
        module = importlib.import_module(name)
        sys.modules[stock_name] = module
        parent, _, attribute = stock_name.rpartition(".")
        setattr(sys.modules[parent], attribute, module)
    # The vendored modules know each other's classes already, as they do for users;
    # these are for the tests.
    django.DjangoIntegration = vendored_integration.django.DjangoIntegration
    wsgi.SentryWsgiMiddleware = vendored_integration.wsgi.SentryWsgiMiddleware


swap()
