"""CPU seconds that imports take, once Django is there: imports.py MODULE..."""

import sys
import time

import project

project.settings_only()
project.setup()
import django.core.handlers.asgi  # noqa: E402
import django.core.handlers.wsgi  # noqa: E402, F401

began = time.process_time()
for module in sys.argv[1:]:
    __import__(module)
print(time.process_time() - began)
