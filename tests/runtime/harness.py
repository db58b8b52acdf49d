"""Names that some tests still import."""

from support.sdk import HAS_STREAM_LIFECYCLE, start_span  # noqa: F401
from support.wsgi import WsgiClient as Exchange  # noqa: F401
