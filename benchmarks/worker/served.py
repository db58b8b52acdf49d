"""The WSGI application for gunicorn: BENCHMARK_SYSTEM at BENCHMARK_RATE."""

import os

from systems import install

application = install(os.environ["BENCHMARK_SYSTEM"], float(os.environ["BENCHMARK_RATE"]))
