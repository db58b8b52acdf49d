"""Names that some tests still import."""

from support.apps import serve  # noqa: F401
