"""The hand-written half of the integration, the same for every SDK release.

The generated half (``vendored_integration._vendor``) is upstream's code with a few lines
changed; those lines call in here as early as they can. ``docs/architecture.md`` has the
modules in reading order.
"""

from .middleware import is_disposal
from .process import hide_frames
from .wsgi_request import close_aware
from .wsgi_response import _ScopedResponse

__all__ = ["_ScopedResponse", "close_aware", "is_disposal"]

hide_frames()
