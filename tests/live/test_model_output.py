"""A view that streams what a language model says: docs/model-output.md.

The client library and the SDK's integration for it are the real ones; the model's API is here.
"""

import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from running import Running
from sentry_sdk.consts import SPANDATA
from servers import SERVERS
from support.sdk import LIFECYCLES

from sink import attributes

pytest.importorskip("openai")
pytestmark = pytest.mark.skipif(
    not hasattr(SPANDATA, "GEN_AI_RESPONSE_STREAMING"), reason="an SDK with other spans"
)

WORDS = ["one ", "two ", "three"]


class Model(ThreadingHTTPServer):
    """An API that answers with server-sent events: the words, and what they have cost."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answer)
        #: Set: it answers in full. Not set: it stops after the first word until then, and
        #: then goes on until the client has gone.
        self.answers = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Answer(BaseHTTPRequestHandler):
    server: Model

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        in_full = self.server.answers.is_set()
        self.say(WORDS[0])
        try:
            while not in_full:
                self.server.answers.wait(30)
                self.say("more ")
        except ConnectionError:
            return
        for word in WORDS[1:]:
            self.say(word)
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        self.event(choices=[], usage=usage)
        self.wfile.write(b"data: [DONE]\n\n")

    def say(self, word):
        self.event(choices=[{"index": 0, "delta": {"content": word}, "finish_reason": None}])

    def event(self, **fields):
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "small"}
        self.wfile.write(b"data: " + json.dumps({**chunk, **fields}).encode() + b"\n\n")

    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def model():
    with Model() as model:
        threading.Thread(target=model.serve_forever, daemon=True).start()
        yield model
        model.shutdown()


@pytest.fixture(
    scope="module",
    params=itertools.product(["gunicorn-gthread", "uvicorn-h11"], LIFECYCLES),
    ids="-".join,
)
def running(request, model, tmp_path_factory):
    name, lifecycle = request.param
    server = SERVERS[name].serving("model_app")
    directory = tmp_path_factory.mktemp("model")
    with Running(
        server, directory, lifecycle=lifecycle, OPENAI_BASE_URL=model.url, LOGS="1"
    ) as running:
        yield running


def view(running):
    return "/answer-async/" if running.server.interface == "asgi" else "/answer/"


def batched(running, kind, trace_id):
    """What has arrived of a kind that is sent many in an item, of one trace."""
    items = running.sink.items(kind)
    return [one for item in items for one in item.json["items"] if one["trace_id"] == trace_id]


def model_spans(running, trace_id):
    """In both lifecycles the SDK sends these by themselves."""
    spans = running.sink.spans()
    return [span for span in spans if span["name"] == "chat small" and span["trace_id"] == trace_id]


def test_answer(running, model, request_id):
    """The model's span, its tokens, the body's log and metrics: all in the request's trace."""
    model.answers.set()
    assert running.fetch(view(running), request_id).body == "".join(WORDS).encode()
    trace = running.the_transaction(request_id)
    assert trace.outcome == "completed"
    (span,) = model_spans(running, trace.trace_id)
    assert span["parent_span_id"] in trace.span_ids
    data = attributes(span)
    assert (data["gen_ai.usage.input_tokens"], data["gen_ai.usage.output_tokens"]) == (5, 3)
    logged = [log["body"] for log in batched(running, "log", trace.trace_id)]
    said = [line for line in logged if line.startswith("said")]  # uvicorn logs the request
    assert said == [f"said {word!r}" for word in [*WORDS, ""]]
    counted = batched(running, "trace_metric", trace.trace_id)
    assert sum(one["value"] for one in counted if one["name"] == "words") == len(WORDS) + 1


def test_client_that_hangs_up(running, model, request_id):
    """The application ends the model's span, which is then sent."""
    model.answers.clear()
    with running.open(view(running), request_id) as response:
        assert response.read_headers().read1(100).startswith(b"one")
        response.hang_up()
        model.answers.set()
        trace = running.the_transaction(request_id)
    assert trace.outcome == "cancelled"
    (span,) = model_spans(running, trace.trace_id)
    assert span["status"] == "ok"
    assert "gen_ai.usage.output_tokens" not in attributes(span)
