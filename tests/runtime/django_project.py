"""The Django project of the runtime tests: importing this configures it."""

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DEBUG=False,
        LOGGING_CONFIG=None,
        ROOT_URLCONF="views",
        SECRET_KEY="test",
        USE_TZ=True,
    )
    django.setup()
