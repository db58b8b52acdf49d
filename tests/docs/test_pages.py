"""Every block of code in the pages is run, or parsed by what it is written for.

`mkdocs build --strict` looks at the links, the anchors and the index.
"""

import ast
import configparser
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Callable, Dict, Iterator, List
from xml.etree import ElementTree

import commands
import pytest
from commands import SCRIPTS
from packaging.requirements import Requirement
from pages import BLOCKS, PAGES, ROOT, Block, blocks_of

from project import PATH, Project
from sink import EnvelopeSink
from traces import Trace, traces

#: Output, trees and queries: for the eye alone.
NOT_RUN = ["text"]
PARSED = ["sh", "diff", "dockerfile", "ini", "json", "pip-requirements", "yaml"]


@pytest.fixture
def sink() -> Iterator[EnvelopeSink]:
    with EnvelopeSink() as sink:
        yield sink


def each(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", blocks_of(*kinds), ids=str)


def run(*command: object) -> str:
    """What it prints. :raises AssertionError: it fails."""
    result = subprocess.run(
        list(map(str, command)),
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    known = ["python", *PARSED, *NOT_RUN]
    assert {str(block): block.kind for block in BLOCKS if block.kind not in known} == {}


# -- Python


def requests_of(sink: EnvelopeSink) -> List[Trace]:
    return [trace for trace in traces(sink) if trace.op == "http.server"]


def the_request(sink: EnvelopeSink) -> Trace:
    (trace,) = requests_of(sink)
    return trace


def shows_the_quick_start(project: Project, sink: EnvelopeSink) -> None:
    project.run(
        "status, body = get('/export.csv')\n"
        "lines = body.split()\n"
        "assert (status, lines[0], lines[-1]) == ('200 OK', 'id,permission', f'all,{len(lines) - 2}')"
    )
    trace = the_request(sink)
    assert trace.outcome == "completed"
    assert trace.data["http.response.stream.chunks"] > 2
    first, last = [span for span in trace.spans if span.op == "db" and "SELECT" in span.name]
    assert trace.parent_of(first.name) is None
    assert "COUNT" in last.name
    assert last.parent_span_id == trace.named("totals").span_id


def has_the_span_of_the_generator(project: Project, sink: EnvelopeSink) -> None:
    project.run("get('/export')")
    trace = the_request(sink)
    assert trace.named("export all orders").op == "export"
    (query,) = [span for span in trace.spans if "shop_order" in span.name]
    assert query.parent_span_id == trace.named("export all orders").span_id


def has_the_queries_of_its_threads(project: Project, sink: EnvelopeSink) -> None:
    body = "1: 2 cost more\n2: 1 cost more\n3: 0 cost more\n"
    project.run(f"assert get('/labels') == ('200 OK', {body!r})")
    assert len([span for span in the_request(sink).spans if "COUNT" in span.name]) == 3


def streams_under_asgi(project: Project, sink: EnvelopeSink) -> None:
    project.run(
        "from shop import routing, starlette_app\n"
        "for application in asgi, routing.application:\n"
        "    assert aget(application, '/prices') == (200, 'data: 100\\n\\n' * 3)\n"
        "ticks = aget(starlette_app.application, '/ticks')\n"
        "assert ticks == (200, 'tick 0\\ntick 1\\ntick 2\\n')\n"
    )
    assert [trace.outcome for trace in requests_of(sink)] == ["completed"] * 3
    for trace in requests_of(sink):
        assert trace.name.endswith("/ticks") or "price 1" in trace.names()


def logs_with_the_request_id(project: Project, sink: EnvelopeSink) -> None:
    output = project.run(
        "get('/export', HTTP_X_REQUEST_ID='abc')\n"
        "import logging; from shop.log import request_id\n"
        "request_id.set('def'); logging.getLogger('shop').info('here')"
    )
    (line,) = [json.loads(line) for line in output.splitlines() if "the first chunk" in line]
    assert line["request_id"] == "abc"
    assert "def shop here" in output


def leaves_out_hang_ups(project: Project, sink: EnvelopeSink) -> None:
    (project.directory / "shop" / "views.py").write_text(
        "from django.http import StreamingHttpResponse\n"
        "def prices(request):\n"
        "    return StreamingHttpResponse(str(n) for n in range(int(request.GET['n'])))\n"
    )
    project.run("get('/prices?n=9', chunks=2); get('/prices?n=3')")
    assert the_request(sink).outcome == "completed"


def sends_events(project: Project, sink: EnvelopeSink) -> None:
    body = 'data: {"newest": 3}\n\n'
    project.run(f"assert get('/events?until=3') == ('200 OK', {body!r})")
    assert the_request(sink).named("look for orders").op == "sse"


def has_the_span_of_the_model(project: Project, sink: EnvelopeSink) -> None:
    project.run(
        "import http.server, json, os, threading\n"
        "class Answer(http.server.BaseHTTPRequestHandler):\n"
        "    def do_POST(self):\n"
        "        self.send_response(200)\n"
        "        self.send_header('Content-Type', 'text/event-stream')\n"
        "        self.end_headers()\n"
        "        chunk = {'id': '1', 'object': 'chat.completion.chunk', 'model': 'm', 'created': 1}\n"
        "        for word in 'one ', 'two':\n"
        "            chunk['choices'] = [{'index': 0, 'delta': {'content': word}}]\n"
        "            self.wfile.write(b'data: ' + json.dumps(chunk).encode() + b'\\n\\n')\n"
        "        self.wfile.write(b'data: [DONE]\\n\\n')\n"
        "server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Answer)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "url = f'http://127.0.0.1:{server.server_port}'\n"
        "os.environ.update(OPENAI_API_KEY='none', OPENAI_BASE_URL=url)\n"
        "assert get('/answer') == ('200 OK', 'one two')\n"
        "get('/answer', chunks=1)\n"
    )
    first, second = requests_of(sink)
    assert (first.outcome, second.outcome) == ("completed", "cancelled")
    models = [span for span in sink.spans() if span["name"] == "chat gpt-5-mini"]
    assert [span["trace_id"] for span in models] == [first.trace_id, second.trace_id]


def runs_tasks_and_commands(project: Project, sink: EnvelopeSink) -> None:
    output = project.run(
        "from shop.celery import app; app.conf.task_always_eager = True\n"
        "from shop.tasks import write_report\n"
        "assert write_report.delay().get() == '1,100\\n2,200\\n3,300\\n'\n"
        "call_command('export_orders')\n"
        "import threading\n"
        "assert [t for t in threading.enumerate() if 'vendored' in t.name] == []\n"
    )
    assert output == "1,100\n2,200\n3,300\n"
    found = {trace.name: trace.names() for trace in traces(sink)}
    assert "shop.tasks.write_report" in found
    assert "read orders" in found["export_orders"]


def bounds_the_transport(project: Project, sink: EnvelopeSink) -> None:
    project.run(
        "import logging\n"
        "logging.getLogger('django.security.csrf').error('dropped')\n"
        "logging.getLogger('shop').error('sent')\n"
        "assert sentry_sdk.get_client().transport.dropped == {}\n"
    )
    assert [event["logentry"]["message"] for event in sink.errors()] == ["sent"]


def traces_what_is_not_django(project: Project, sink: EnvelopeSink) -> None:
    project.run("assert call(snippets['application'], '/')[0] == '404 Not Found'")
    assert the_request(sink).status == "not_found"


#: What a page's code must do, beyond running. Every other page's views are called.
DOES: "Dict[str, Callable[[Project, EnvelopeSink], None]]" = {
    "docs/asgi.md": streams_under_asgi,
    "docs/celery.md": runs_tasks_and_commands,
    "docs/generators.md": has_the_span_of_the_generator,
    "docs/logging.md": logs_with_the_request_id,
    "docs/long-streams.md": sends_events,
    "docs/model-output.md": has_the_span_of_the_model,
    "docs/options.md": traces_what_is_not_django,
    "docs/outage.md": bounds_the_transport,
    "docs/outcomes.md": leaves_out_hang_ups,
    "docs/quickstart.md": shows_the_quick_start,
    "docs/threads.md": has_the_queries_of_its_threads,
}
PYTHON_PAGES = sorted({block.page for block in blocks_of("python")})


@pytest.mark.parametrize("page", sorted({*PYTHON_PAGES, *DOES}))
def test_python(page: str, tmp_path: Path, sink: EnvelopeSink) -> None:
    """A page's code runs, as one Django project, and does what the page says."""
    blocks = [block for block in blocks_of("python") if block.page == page]
    assert blocks
    DOES.get(page, lambda project, sink: project.run())(Project(tmp_path, blocks, sink), sink)


# -- shell


@each("sh")
def test_sh(block: Block) -> None:
    """Each command exists, and takes its arguments."""
    for words in commands.commands(block.text):
        commands.check(words)


@pytest.mark.parametrize(
    "command",
    [
        "python3 scripts/vendor.py wheels --every",
        "python3 scripts/no_such.py",
        "python3 scripts/test.py -e no-such-environment",
        "python -m vendored_integration --yaml",
        "python manage.py migrate --no-such",
        "pip install --find-link dist --no-such x",
        "uv add --no-such x",
        "gunicorn shop.wsgi --no-such 8",
        "uvicorn shop.asgi:application --no-such",
        "celery -A shop worker --no-such",
        "twine check --no-such dist/*.whl",
        "git no-such",
        "no-such",
    ],
)
def test_arguments_that_a_program_does_not_know(command: str) -> None:
    """The test above can fail."""
    for words in commands.commands(command + "\n"):
        with pytest.raises(AssertionError):
            commands.check(words)


# -- changes


@each("diff")
def test_diff(block: Block, tmp_path: Path, sink: EnvelopeSink) -> None:
    """Both sides are what the file's name says; and the new one runs."""
    before, after, *lines = block.text.splitlines()
    path = before.replace("--- a/", "")
    assert after == f"+++ b/{path}"
    assert {"+", "-"} <= {line[:1] for line in lines} <= {"+", "-", " ", ""}
    old = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    new = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    if path == "requirements.in":
        check_requirements(old)
        check_requirements(new)
        return
    compile(old, str(block), "exec")
    text = f"# {path}\n{new}\n"
    assert PATH.match(text)
    then = "get_all()\n"
    if path == "shop/settings.py":  # the class that it imports is the one in use
        then += (
            "from shop import settings\n"
            "found = type(sentry_sdk.get_client().get_integration('django'))\n"
            "assert found in vars(settings).values(), found\n"
        )
    Project(tmp_path, [block._replace(text=text)], sink).run(then)
    if "vendored_integration" in new and "StreamingHttpResponse" in new:
        assert the_request(sink).outcome == "completed"


@each("pip-requirements")
def test_requirements(block: Block) -> None:
    check_requirements(block.text)


def check_requirements(text: str) -> None:
    for line in text.splitlines():
        if line.split("#")[0].strip():
            Requirement(line.split("#")[0])


# -- other languages


@each("dockerfile")
def test_dockerfile(block: Block, tmp_path: Path) -> None:
    """hadolint has nothing against it, and what it runs exists."""
    path = tmp_path / "Dockerfile"
    path.write_text(block.text)
    run(SCRIPTS / "hadolint", "--no-color", path)
    for instruction, value in re.findall(r"(?m)^(RUN|CMD) ((?:.*\\\n)*.*)$", block.text):
        found = [json.loads(value)] if instruction == "CMD" else commands.commands(value)
        for words in found:
            commands.check(words)


SCHEMAS = {
    "json": "vendor.renovate",
    "yaml": "vendor.dependabot",
    ".github/dependabot.yml": "vendor.dependabot",
    ".github/ISSUE_TEMPLATE/config.yml": "vendor.github-issue-config",
}


@each("json", "yaml")
def test_json_and_yaml(block: Block, tmp_path: Path) -> None:
    path = tmp_path / f"block.{block.kind}"
    path.write_text(block.text)
    run(SCRIPTS / "check-jsonschema", "--builtin-schema", SCHEMAS[block.kind], path)


FILES_OF_GITHUB = sorted(path.relative_to(ROOT) for path in ROOT.glob(".github/*/*.yml"))


@pytest.mark.parametrize("path", [*FILES_OF_GITHUB, Path(".github/dependabot.yml")], ids=str)
def test_files_of_github(path: Path) -> None:
    """GitHub leaves out a form that it does not understand, and says nothing."""
    kind = "workflows" if path.parent.name == "workflows" else "issue-forms"
    schema = SCHEMAS.get(path.as_posix(), f"vendor.github-{kind}")
    run(SCRIPTS / "check-jsonschema", "--builtin-schema", schema, path)


@each("ini")
def test_ini(block: Block) -> None:
    """uWSGI's options are those that its own list has."""
    parser = configparser.ConfigParser()
    parser.read_string(block.text)
    assert parser.sections() == ["uwsgi"], "only uWSGI's are known"
    known = set(re.findall(r"--([\w-]+)", run(SCRIPTS / "pyuwsgi", "--help")))
    assert set(parser["uwsgi"]) <= known


def test_pictures() -> None:
    """They are well-formed, and say in words what they show."""
    for path in (ROOT / "docs").glob("*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(str(path)).iter()}
        assert {"title", "desc"} <= tags


# -- what the pages say of the package


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_table_of_servers() -> None:
    """It has the servers that the live tests run, and what is expected of each."""
    run(sys.executable, "tests/live/table.py", "--check")


@pytest.mark.parametrize("page", ["README.md", "docs/options.md"])
def test_options_and_their_defaults(page: str) -> None:
    from vendored_integration.runtime.options import DEFAULT_OPTIONS

    rows = re.findall(r"(?m)^\| `(\w+)` \| `(.+?)` \|", text_of(page))
    found = {name: ast.literal_eval(value) for name, value in rows}
    assert found == DEFAULT_OPTIONS._asdict()


def test_public_names_are_in_the_reference() -> None:
    import vendored_integration

    missing = {"__version__", *re.findall(r"(?m)^::: .*\.(\w+)$", text_of("docs/reference.md"))}
    assert set(vendored_integration.__all__) <= missing


def test_log_messages_are_those_of_the_source() -> None:
    """The table in docs/troubleshooting.md quotes them, with … where something is left out."""
    strings = [
        node.value
        for path in (ROOT / "vendored_integration").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    table = text_of("docs/troubleshooting.md").partition("## What the log says")[2]
    cells = re.findall(r"(?m)^\| (`.+?) \| (?:ERROR|WARNING) \|", table)
    messages = re.findall(r"`(.+?)`", " ".join(cells))
    assert len(messages) >= 7
    for message in messages:
        parts = [part.strip() for part in message.split("…") if part.strip()]
        assert any(all(part in string for part in parts) for string in strings), message


def test_no_page_names_a_file_that_is_gone() -> None:
    """Paths of the repository, in code font."""
    path = re.compile(r"`((?:scripts|tests|benchmarks|docs)/[\w./-]+)`")
    named = {(page.name, name) for page in PAGES for name in path.findall(page.read_text())}
    assert [one for one in named if not (ROOT / one[1]).exists()] == []


@pytest.mark.skipif(
    not list(metadata.Distribution.discover(name="vendored-integration")),
    reason="the demo prints the version of the installed wheel",
)
def test_samples_of_the_demo() -> None:
    """Each line is one of the demo's output, times and truncated words aside, in that order."""
    printed = run(sys.executable, "scripts/demo.py", "--installed")
    output = [normalized(line) for line in printed.splitlines()]
    for page in "README.md", "docs/demo.md":
        rest = list(output)
        for block in blocks_of("text"):
            for line in map(normalized, block.text.splitlines() if block.page == page else []):
                assert line in rest, f"{block}: not in the demo's output: {line}"
                del rest[: rest.index(line) + 1]


def normalized(line: str) -> str:
    line = re.sub(r"[\d.,]+ m?s\b", "TIME", line)
    line = re.sub(r"\S*…", "…", line)
    return re.sub(r"[ ─]+", " ", line).strip()
