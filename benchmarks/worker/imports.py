"""CPU seconds that imports take, once Django is there: imports.py MODULE..."""

import gc
import sys
import time

import project

project.settings_only()
project.setup()
import django.core.handlers.asgi  # noqa: E402
import django.core.handlers.wsgi  # noqa: E402, F401

# Django alone is most of a full collection, which comes when its time has come: what is
# counted is that of what is imported now.
gc.collect()
gc.freeze()
began = time.process_time()
for module in sys.argv[1:]:
    __import__(module)
print(time.process_time() - began)
