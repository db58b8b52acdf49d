"""What the demo forwards to Sentry's Spotlight."""

import argparse
import gzip
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

import pytest
from stages import DEMO, SECOND_STAGE, assert_refused, finish, needs_installed, start

from sink import EnvelopeSink, parse_envelope


class Sidecar:
    """Like Spotlight's: GET /health, and POST /stream, whose requests are kept."""

    def __init__(self, health=200, stream=200):
        self.posted = []  # headers and body
        sidecar = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(health if self.path == "/health" else 404)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sidecar.posted.append((dict(self.headers), body))
                self.reply(stream if self.path == "/stream" else 404)

            def reply(self, status):
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.origin = "http://127.0.0.1:%d" % self._server.server_address[1]
        self.url = self.origin + "/stream"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def envelopes(self):
        """What has been posted. Errors: `AssertionError` for another content type."""
        found = []
        for headers, body in self.posted:
            assert headers["Content-Type"] == "application/x-sentry-envelope"
            if headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            found.append(parse_envelope(body))
        return found


def send(sink, body, encoding):
    """As an SDK does."""
    url = f"http://127.0.0.1:{sink.port}/api/1/envelope/"
    headers = {"Content-Encoding": encoding} if encoding else {}
    with urlopen(Request(url, body, headers), timeout=10) as reply:
        assert reply.status == 200


@needs_installed
def test_same_envelopes(project):
    """Each arrives as it was sent, compressed or not, in its order."""
    bodies = [b'{}\n{"type": "event"}\n{"message": "%d"}\n' % number for number in range(3)]
    sent = [(bodies[0], ""), (gzip.compress(bodies[1]), "gzip"), (bodies[2], "")]
    with Sidecar() as sidecar:
        spotlight = project("spotlight").Spotlight(sidecar.url)
        with EnvelopeSink(on_body=spotlight.keep) as sink:
            for body, encoding in sent:
                send(sink, body, encoding)
        assert sidecar.posted == []  # not while something is measured
        spotlight.forward()
        assert [
            (body, headers.get("Content-Encoding", "")) for headers, body in sidecar.posted
        ] == sent
        assert sidecar.envelopes == sink.envelopes
        assert spotlight.forwarded == 3


@needs_installed
def test_second_stage_forwards_both_sides(tmp_path):
    """The traces that the terminal names are there, stock's and ours."""
    with Sidecar() as sidecar:
        status, out, err = finish(start(SECOND_STAGE, tmp_path, f"--spotlight={sidecar.url}"))
        assert (status, err) == (0, "")
        named = re.findall(r"\b[0-9a-f]{32}\b", out)
        assert len(set(named)) == 10
        events = [item for envelope in sidecar.envelopes for item in envelope.items]
        transactions = [item.json for item in events if item.type == "transaction"]
        assert set(named) <= {one["contexts"]["trace"]["trace_id"] for one in transactions}
        assert {one["environment"] for one in transactions} == {"demo-stock", "demo-ours"}
        assert len([item for item in events if item.type == "event"]) == 2
        assert f"{len(sidecar.posted)} envelopes forwarded to Spotlight" in out
        assert out.splitlines()[-1] == sidecar.origin + "/"


@needs_installed
def test_sidecar_that_takes_nothing(tmp_path):
    """An error; the report and the page are there all the same."""
    page = tmp_path / "demo.html"
    with Sidecar(stream=500) as sidecar:
        arguments = (f"--spotlight={sidecar.url}", f"--html={page}")
        status, out, err = finish(start(SECOND_STAGE, tmp_path, *arguments))
    assert status == 1
    assert err.startswith(f"error: Spotlight at {sidecar.url} took no envelope: 500")
    assert "vendored_integration: 0 of " in out
    assert list(tmp_path.iterdir()) == [page]


# -- before anything is installed


def test_no_sidecar(tmp_path):
    """The message has the command that starts one."""
    with Sidecar() as sidecar:
        pass
    result = finish(start(DEMO, tmp_path, "--spotlight", sidecar.url))
    assert_refused(result, sidecar.url, "refused", "Next: start it", "spotlight")


def test_sidecar_that_is_ill(tmp_path):
    with Sidecar(health=500) as sidecar:
        result = finish(start(DEMO, tmp_path, "--spotlight", sidecar.url))
    assert_refused(result, sidecar.origin + "/health says 500")


def test_address_that_is_none(tmp_path):
    assert_refused(finish(start(DEMO, tmp_path, "--spotlight", "8969")), "8969", "/stream")


def test_spotlight_of_what_another_sentry_received(tmp_path):
    arguments = ("--spotlight", "--dsn", "https://key@sentry.example/1")
    assert_refused(finish(start(DEMO, tmp_path, *arguments)), "--spotlight with --dsn", "Next:")


@pytest.mark.parametrize("path", ["", "/", "/stream", "/stream/"])
def test_address_of_a_sidecar_that_is_well(demo, path):
    """With or without the path."""
    with Sidecar() as sidecar:
        options = argparse.Namespace(spotlight=sidecar.origin + path, dsn=None)
        demo.check_spotlight(options)
        assert options.spotlight == sidecar.url
