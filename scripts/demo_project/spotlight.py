"""Sentry's Spotlight: shows on this machine what an SDK has sent.

https://spotlightjs.com, `npx @spotlightjs/spotlight`
"""

from __future__ import annotations

from typing import List, Tuple

import requests  # type: ignore[import-untyped,unused-ignore]

CONTENT_TYPE = "application/x-sentry-envelope"
TIMEOUT = 10.0  # seconds


class Spotlight:
    """Keeps envelopes as they came, and posts them when the streams are over.

    Not in between: what is measured then would wait for it.
    """

    def __init__(self, url: str) -> None:
        """`url`: of its sidecar, http://localhost:8969/stream"""
        self.url = url
        self.forwarded = 0
        self._kept: List[Tuple[bytes, str]] = []

    def keep(self, body: bytes, encoding: str) -> None:
        """An envelope's bytes, and their Content-Encoding. May be called from any thread."""
        self._kept.append((body, encoding))

    def forward(self) -> None:
        """Post what has been kept, in its order. Errors: `requests.RequestException`."""
        with requests.Session() as client:
            client.trust_env = False  # the user's proxy is not for it
            while self._kept:
                body, encoding = self._kept[0]
                headers = {"Content-Type": CONTENT_TYPE}
                if encoding:
                    headers["Content-Encoding"] = encoding
                reply = client.post(self.url, data=body, headers=headers, timeout=TIMEOUT)
                reply.raise_for_status()
                del self._kept[0]
                self.forwarded += 1
