"""The fast ways of servers to send files stay in use, and have a transaction."""

import re
import shutil
import subprocess
import uuid

import pytest
from running import FILE_CONTENT, Running
from servers import SERVERS, UWSGI_OFFLOAD


def strace_works():
    strace = shutil.which("strace")
    return bool(strace) and subprocess.call([str(strace), "-o", "/dev/null", "true"]) == 0


def test_gunicorn_calls_sendfile(tmp_path, request_id):
    """gunicorn sends a file by sendfile(2), for it is given its own wrapper back.

    It asks whether the response is an instance of its `wsgi.file_wrapper`. Stock looks
    for `fileno`, which gunicorn's wrapper does not have, and hides it in a response of
    its own.
    """
    if not strace_works():
        pytest.skip("no strace here, or it may not trace")
    log = tmp_path / "strace"
    strace = ["strace", "-f", "-e", "trace=sendfile", "-o", str(log)]
    with Running(SERVERS["gunicorn-sync"], tmp_path, before=strace) as running:
        assert running.fetch("/file/", request_id).body == FILE_CONTENT
        trace = running.the_transaction(request_id)
    sent = [int(count) for count in re.findall(r"sendfile\(.* = (\d+)$", log.read_text(), re.M)]
    assert sum(sent) == len(FILE_CONTENT)
    assert trace.outcome == "completed"
    running.check()


def test_uwsgi_offloads_files(tmp_path):
    """uWSGI hands a file to its offload thread, and may close it during a later request.

    It does so only if what the application returned is the very object that it made, and
    says how a response was sent in its log.
    """
    with Running(UWSGI_OFFLOAD, tmp_path) as running:
        first, second = uuid.uuid4().hex, uuid.uuid4().hex
        # The thread is still sending the first when the second is answered.
        with running.open("/file/", first) as response:
            response.read_headers()
            running.fetch("/plain/", second)
            assert response.read().body == FILE_CONTENT
        running.process.wait_for_output(r"GET /file/ .* via offload\(\)")
        for request_id, name in (first, "/file/"), (second, "/plain/"):
            trace = running.the_transaction(request_id)
            assert trace.name == name
            assert trace.status == "ok"
        assert running.the_transaction(first).outcome == "completed"
        running.check()
