"""Settings for Django's own tests: theirs, and ``sentry_sdk.init()`` as in a project.

scripts/django_tests.py passes in ``DJANGO_SUITE_RUN`` which integration there is to be, and
where the results go.
"""

import importlib
import json
import os
from typing import Any, Dict

from test_sqlite import *  # noqa: F403

RUN: Dict[str, Any] = json.loads(os.environ["DJANGO_SUITE_RUN"])
TEST_RUNNER = "suite_runner.Runner"

if RUN["integration"]:
    import sentry_sdk
    from sent import RecordingTransport

    integration = importlib.import_module(RUN["integration"]).DjangoIntegration

    sentry_sdk.init(
        dsn="http://public@127.0.0.1:9/1",
        transport=RecordingTransport,
        integrations=[integration()],
        traces_sample_rate=1.0,
        release="django-suite",
        _experiments={"trace_lifecycle": RUN["lifecycle"]},
        # The most that the SDK can want of a request.
        send_default_pii=True,
        max_request_body_size="always",
    )
