"""The middleware around an application that is not Django's."""

import flask
from support.sdk import start_span
from support.wsgi import WsgiClient

from vendored_integration.wsgi import SentryWsgiMiddleware


def test_flask(init, lifecycle):
    """Flask's own request context and the trace are both there in the body.

    The SDK's own integration for Flask is enabled, as it is by default.
    """
    app = flask.Flask(__name__)

    @app.get("/stream")
    def stream():
        def body():
            for number in range(3):
                with start_span(f"chunk {number}"):
                    yield f"{flask.request.path} {number};"

        return flask.Response(flask.stream_with_context(body()))

    sentry = init(lifecycle, auto_enabling_integrations=True)
    client = WsgiClient(SentryWsgiMiddleware(app), "/stream")
    assert client.read() == b"/stream 0;/stream 1;/stream 2;"
    root = sentry.root()
    assert {"chunk 0", "chunk 1", "chunk 2"} <= set(root.names())
    assert root.outcome == "completed"
