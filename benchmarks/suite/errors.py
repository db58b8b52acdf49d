"""Errors whose message says what to do next."""


class BenchmarkError(Exception):
    """A step has failed, or the machine lacks something."""
