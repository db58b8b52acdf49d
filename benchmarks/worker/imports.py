"""Seconds that the import of an integration takes, once Django is there: imports.py MODULE."""

import sys
import time

import project

project.settings_only()
project.setup()
import django.core.handlers.asgi  # noqa: E402
import django.core.handlers.wsgi  # noqa: E402, F401

began = time.perf_counter()
__import__(sys.argv[1])
print(time.perf_counter() - began)
