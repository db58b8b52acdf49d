"""pytest plugin: ``finish_on="return"`` for every integration that a test makes.

Comes after ``swap_integration``. A response that is not streaming then ends as in
stock, so whatever fails on purpose, because a response lasts until ``close()``, passes.
"""

import vendored_integration.django
import vendored_integration.wsgi
from vendored_integration.runtime import options, sdk

_classes = (
    vendored_integration.django.DjangoIntegration,
    vendored_integration.wsgi.SentryWsgiMiddleware,
)
for _class in _classes:
    _class.__init__.__kwdefaults__["finish_on"] = "return"  # type: ignore[index]
# For a middleware of upstream's own class, without an integration.
setattr(sdk, "DEFAULT_OPTIONS", options.Options(finish_on="return"))  # noqa: B010
