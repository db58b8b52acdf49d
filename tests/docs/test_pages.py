"""Every block of code in the pages is run, or parsed by what it is written for."""

import ast
import configparser
import json
import os
import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Callable, Dict, Iterator, List
from xml.etree import ElementTree

import commands
import pytest
import yaml
from django_project import PATH, Project
from packaging.requirements import Requirement
from pages import BLOCKS, PAGES, ROOT, Block, blocks_of

from sink import EnvelopeSink
from traces import Trace, traces

try:
    import tomllib
except ImportError:
    import tomli as tomllib

SCRIPTS = Path(sysconfig.get_path("scripts"))


@pytest.fixture
def sink() -> Iterator[EnvelopeSink]:
    with EnvelopeSink() as sink:
        yield sink


def each(blocks: List[Block]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", blocks, ids=map(str, blocks))


# -- all of them

#: Output, trees and queries: for the eye alone.
NOT_RUN = ("text",)

KINDS = (
    *("python", "sh", "diff", "dockerfile", "ini", "json", "pip-requirements", "toml", "yaml"),
    *NOT_RUN,
)


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    """A block that no test below looks at must not be there."""
    unknown = {str(block): block.kind for block in BLOCKS if block.kind not in KINDS}
    assert unknown == {}, f"expected one of {KINDS}"
    assert BLOCKS


# -- Python


def python_pages() -> List[str]:
    return sorted({block.page for block in blocks_of("python")})


def requests_of(sink: EnvelopeSink) -> List[Trace]:
    return [trace for trace in traces(sink) if trace.op == "http.server"]


def a_request(sink: EnvelopeSink, name: str) -> Trace:
    (trace,) = [trace for trace in requests_of(sink) if trace.name == name]
    return trace


def shows_the_quick_start(project: Project, sink: EnvelopeSink) -> None:
    project.run(
        "status, body = get('/export.csv')\n"
        "from django.contrib.auth.models import Permission\n"
        "number = Permission.objects.count()\n"
        "lines = body.splitlines()\n"
        "assert (status, lines[0], lines[-1]) == ('200 OK', 'id,permission', f'all,{number}')\n"
        "assert len(lines) == number + 2\n"
    )
    trace = a_request(sink, "/export.csv")
    assert trace.outcome == "completed"
    assert trace.data["http.response.stream.chunks"] > 2
    queries = [span for span in trace.spans if span.op == "db" and "SELECT" in span.name]
    first, last = queries
    assert trace.parent_of(first.name) is None
    assert "COUNT" in last.name
    assert last.parent_span_id == trace.named("totals").span_id


def has_the_span_of_the_generator(project: Project, sink: EnvelopeSink) -> None:
    project.run("get('/export')")
    trace = a_request(sink, "/export")
    assert trace.named("export all orders").op == "export"
    (query,) = [span for span in trace.spans if "shop_order" in span.name]
    assert query.parent_span_id == trace.named("export all orders").span_id


def has_the_queries_of_its_threads(project: Project, sink: EnvelopeSink) -> None:
    body = "1: 2 cost more\n2: 1 cost more\n3: 0 cost more\n"
    project.run(f"assert get('/labels') == ('200 OK', {body!r})")
    trace = a_request(sink, "/labels")
    assert len([span for span in trace.spans if "COUNT" in span.name]) == 3


def streams_under_asgi(project: Project, sink: EnvelopeSink) -> None:
    project.run(
        "assert aget('/prices') == (200, 'data: 100\\n\\n' * 3)\n"
        "from shop.starlette_app import application\n"
        "assert acall(application, '/ticks') == (200, 'tick 0\\ntick 1\\ntick 2\\n')\n"
        "from shop.routing import application\n"
        "assert acall(application, '/prices') == (200, 'data: 100\\n\\n' * 3)\n"
    )
    assert sorted(trace.outcome for trace in requests_of(sink)) == ["completed"] * 3
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
    assert "def shop here" in project.log


def leaves_out_hang_ups(project: Project, sink: EnvelopeSink) -> None:
    (project.directory / "shop" / "views.py").write_text(
        "from django.http import StreamingHttpResponse\n"
        "def prices(request):\n"
        "    return StreamingHttpResponse(str(n) for n in range(int(request.GET['n'])))\n"
    )
    project.run("get('/prices?n=9', chunks=2); get('/prices?n=3')")
    assert [trace.outcome for trace in requests_of(sink)] == ["completed"]


def sends_events(project: Project, sink: EnvelopeSink) -> None:
    body = 'data: {"newest": 3}\n\n'
    project.run(f"assert get('/events?until=3') == ('200 OK', {body!r})")
    trace = a_request(sink, "/events")
    assert trace.outcome == "completed"
    assert trace.named("look for orders").op == "sse"


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
        "from shop.tasks import write_report\n"
        "from django.core.management import call_command\n"
        "import threading\n"
        "from shop.celery import app; app.conf.task_always_eager = True\n"
        "assert write_report.delay().get() == '1,100\\n2,200\\n3,300\\n'\n"
        "call_command('export_orders')\n"
        "ours = [t.name for t in threading.enumerate() if 'vendored' in t.name]\n"
        "assert ours == [], ours\n"
    )
    assert output == "1,100\n2,200\n3,300\n"
    found = traces(sink)
    assert {"shop.tasks.write_report", "export_orders"} <= {trace.name for trace in found}
    assert all("read orders" in trace.names() for trace in found if trace.name == "export_orders")


def bounds_the_transport(project: Project, sink: EnvelopeSink) -> None:
    project.run(
        "import logging, sentry_sdk\n"
        "logging.getLogger('django.security.csrf').error('dropped')\n"
        "logging.getLogger('shop').error('sent')\n"
        "assert sentry_sdk.get_client().transport.dropped == {}\n"
    )
    assert [event["logentry"]["message"] for event in sink.errors()] == ["sent"]


def traces_what_is_not_django(project: Project, sink: EnvelopeSink) -> None:
    (project.directory / "shop" / "views.py").write_text(
        "from django.http import HttpResponse\n"
        "def plain(request):\n"
        "    return HttpResponse('plain')\n"
    )
    project.run("assert call(application, '/plain') == ('200 OK', 'plain')")
    (trace,) = requests_of(sink)
    assert trace.status == "ok"


#: Requests for every view of the project.
CALL_ALL = "for status, body in get_all(): assert status == '200 OK', (status, body)\n"

#: What a page's code must do, beyond running. Every other page's views are called.
DOES: "Dict[str, Callable[[Project, EnvelopeSink], None]]" = {
    "README.md": traces_what_is_not_django,
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


def test_pages_that_are_named_above_are_there() -> None:
    assert set(DOES) <= set(python_pages())


@pytest.mark.parametrize("page", python_pages())
def test_python(page: str, tmp_path: Path, sink: EnvelopeSink) -> None:
    """A page's code runs, as one Django project, and does what the page says."""
    blocks = [block for block in PAGES[page].blocks if block.kind == "python"]
    project = Project(tmp_path, blocks, sink)
    if page in DOES:
        DOES[page](project, sink)
    else:
        project.run(CALL_ALL)


# -- shell


@each(blocks_of("sh"))
def test_sh(block: Block) -> None:
    """Each command exists, and takes its arguments."""
    found = list(commands.commands(block.text))
    assert found
    for words in found:
        commands.check(words, block.page)


def test_arguments_that_a_program_does_not_know() -> None:
    """The test above can fail: for scripts, modules, subcommands and what click parses."""
    for command in (
        "python3 scripts/vendor.py wheels --every",
        "python3 scripts/vendor.py build 2.75.0 2.74.0",
        "python3 scripts/no_such.py",
        "python3 scripts/test.py -e no-such-environment",
        "python -m vendored_integration --yaml",
        "python manage.py migrate --no-such",
        "pip install --find-link dist --no-such x",
        "uv add --no-such x",
        "poetry add --no-such x",
        "poetry source take x y",
        "gunicorn shop.wsgi --no-such 8",
        "uvicorn shop.asgi:application --no-such",
        "celery -A shop worker --no-such",
        "twine check --no-such dist/*.whl",
        "git no-such",
        "no-such",
    ):
        for words in commands.commands(command + "\n"):
            with pytest.raises(AssertionError):
                commands.check(words, "docs/celery.md")


# -- changes


class Change:
    """A diff's file, before and after."""

    def __init__(self, block: Block) -> None:
        lines = block.text.splitlines(keepends=True)
        before, after = lines[0].strip(), lines[1].strip()
        assert before.startswith("--- a/"), f"{block}: expected --- a/PATH, found {before}"
        assert after == before.replace("--- a/", "+++ b/"), f"{block}: {after}"
        self.path = before[len("--- a/") :]
        wrong = [line for line in lines[2:] if line[0] not in " +-\n"]
        assert wrong == [], f"{block}: no lines of a diff"
        assert {"+", "-"} <= {line[0] for line in lines[2:]}, f"{block}: changes nothing"
        self.old = "".join(line[1:] or "\n" for line in lines[2:] if line[0] != "+")
        self.new = "".join(line[1:] or "\n" for line in lines[2:] if line[0] != "-")


@each(blocks_of("diff"))
def test_diff(block: Block, tmp_path: Path, sink: EnvelopeSink) -> None:
    """Both sides are what the file's name says; and the new one runs."""
    change = Change(block)
    if change.path == "requirements.in":
        for side in change.old, change.new:
            check_requirements(side)
        return
    assert change.path.endswith(".py"), change.path
    compile(change.old, str(block), "exec")
    text = f"# {change.path}\n{change.new}"
    assert PATH.match(text)
    project = Project(tmp_path, [block._replace(text=text)], sink)
    project.run(CALL_ALL + (CHECK_CLASS if change.path == "shop/settings.py" else ""))
    if "vendored_integration" in change.new and "StreamingHttpResponse" in change.new:
        assert [trace.outcome for trace in requests_of(sink)] == ["completed"]


#: The class that the settings import is the one in use.
CHECK_CLASS = """
import sentry_sdk

found = type(sentry_sdk.get_client().get_integration("django"))
expected = vars(__import__("shop.settings").settings)
assert found in expected.values(), found
"""


def check_requirements(text: str) -> None:
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    assert any(lines)
    for line in lines:
        if line:
            Requirement(line)


# -- other languages


@each(blocks_of("dockerfile"))
def test_dockerfile(block: Block, tmp_path: Path) -> None:
    """hadolint has nothing against it, and what it runs exists."""
    path = tmp_path / "Dockerfile"
    path.write_text(block.text)
    result = subprocess.run(
        [str(SCRIPTS / "hadolint"), "--no-color", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    assert result.returncode == 0, result.stdout
    instructions = set()
    for instruction, words in commands.dockerfile_commands(block.text):
        instructions.add(instruction)
        commands.check(words, block.page)
    assert instructions == {"RUN", "CMD"}


@each(blocks_of("json"))
def test_json(block: Block, tmp_path: Path) -> None:
    assert "packageRules" in json.loads(block.text), "only Renovate's are known"
    check_schema("vendor.renovate", tmp_path / "renovate.json", block.text)


@each(blocks_of("yaml"))
def test_yaml(block: Block, tmp_path: Path) -> None:
    assert "updates" in yaml.safe_load(block.text), "only Dependabot's are known"
    check_schema("vendor.dependabot", tmp_path / "dependabot.yml", block.text)


def check_schema(schema: str, path: Path, text: str) -> None:
    path.write_text(text)
    result = subprocess.run(
        [str(SCRIPTS / "check-jsonschema"), "--builtin-schema", schema, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    assert result.returncode == 0, result.stdout


@each(blocks_of("toml"))
def test_toml(block: Block) -> None:
    assert tomllib.loads(block.text)["project"]["requires-python"]


@each(blocks_of("pip-requirements"))
def test_requirements(block: Block) -> None:
    check_requirements(block.text)


@each(blocks_of("ini"))
def test_ini(block: Block) -> None:
    """uWSGI's options are those that its own list has."""
    parser = configparser.ConfigParser()
    parser.read_string(block.text)
    assert parser.sections() == ["uwsgi"], "only uWSGI's are known"
    result = subprocess.run(
        [str(SCRIPTS / "pyuwsgi"), "--help"], stdout=subprocess.PIPE, universal_newlines=True
    )
    known = set(re.findall(r"--([\w-]+)", result.stdout))
    assert set(parser["uwsgi"]) <= known


# -- what is beside the code


def test_links() -> None:
    """Each link to a file or a heading of the repository leads there."""
    broken = []
    for page in PAGES.values():
        for link in page.links:
            if re.match(r"(https?|mailto):", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.path.parent / path).resolve() if path else page.path
            if not target.exists():
                broken.append(f"{page.name}: {link}: no such file")
            elif anchor:
                other = PAGES.get(target.relative_to(ROOT).as_posix())
                if other is None or anchor not in other.anchors:
                    broken.append(f"{page.name}: {link}: no such heading")
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    index = {
        (ROOT / "docs" / link.partition("#")[0]).resolve() for link in PAGES["docs/README.md"].links
    }
    assert [
        p.name for p in PAGES.values() if p.name.startswith("docs/") and p.path not in index
    ] == ["docs/README.md"]


@pytest.mark.parametrize("name", ["bug", "new_sdk", "question", "config"])
def test_issue_templates(name: str) -> None:
    """GitHub leaves out a form that it does not understand, and says nothing."""
    path = ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml"
    schema = "vendor.github-issue-config" if name == "config" else "vendor.github-issue-forms"
    check_schema(schema, path, path.read_text())


def test_pictures() -> None:
    """They are well-formed, and say in words what they show."""
    pictures = sorted((ROOT / "docs").glob("*.svg"))
    assert pictures
    for path in pictures:
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(str(path)).iter()}
        assert {"title", "desc"} <= tags


# -- what the pages say of the package


def test_table_of_servers() -> None:
    """It has the servers that the live tests run, and what is expected of each."""
    command = [sys.executable, str(ROOT / "tests" / "live" / "table.py"), "--check"]
    subprocess.run(command, check=True)


def test_options_and_their_defaults() -> None:
    """Both tables have every option, with the default that it has."""
    from vendored_integration.runtime.options import DEFAULT_OPTIONS

    expected = dict(DEFAULT_OPTIONS._asdict())
    for page in "README.md", "docs/options.md":
        rows = re.findall(r"(?m)^\| `(\w+)` \| `(.+?)` \|", PAGES[page].path.read_text())
        assert {name: ast.literal_eval(value) for name, value in rows} == expected


def test_public_names_are_documented() -> None:
    import vendored_integration

    text = "".join(
        page.path.read_text() for page in PAGES.values() if page.name.startswith("docs/")
    )
    assert [
        name for name in vendored_integration.__all__ if not re.search(rf"\b{name}\b", text)
    ] == ["__version__"]


def test_log_messages_are_those_of_the_source() -> None:
    """The table in docs/troubleshooting.md quotes them, with … where something is left out."""
    source = ROOT / "vendored_integration"
    strings = [
        node.value
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    text = PAGES["docs/troubleshooting.md"].path.read_text()
    table = text[text.index("## What the log says") :]
    cells = re.findall(r"(?m)^\| (`.+?) \| (?:ERROR|WARNING) \|", table)
    messages = [message for cell in cells for message in re.findall(r"`(.+?)`", cell)]
    assert len(messages) >= 7
    for message in messages:
        parts = [part.strip() for part in message.split("…") if part.strip()]
        assert any(all(part in string for part in parts) for string in strings), message


def test_no_page_names_a_file_that_is_gone() -> None:
    """Paths of the repository, in code font."""
    gone = []
    for page in PAGES.values():
        for path in re.findall(
            r"`((?:scripts|tests|benchmarks|docs)/[\w./-]+)`", page.path.read_text()
        ):
            if not (ROOT / path).exists():
                gone.append(f"{page.name}: {path}")
    assert gone == []


@pytest.mark.skipif(
    not list(metadata.Distribution.discover(name="vendored-integration")),
    reason="the demo prints the version of the installed wheel",
)
def test_sample_in_the_readme(tmp_path: Path) -> None:
    """It is output of the demo: each line, times and truncated words aside, in that order."""
    (sample,) = [block for block in PAGES["README.md"].blocks if block.kind == "text"]
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo_project" / "run.py"), "--width", "100"],
        cwd=str(tmp_path),
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        timeout=100,
        check=True,
    )
    output = [normalized(line) for line in result.stdout.decode().splitlines()]
    for line in map(normalized, sample.text.splitlines()):
        assert line in output, f"not in the demo's output: {line}"
        del output[: output.index(line) + 1]


def normalized(line: str) -> str:
    line = re.sub(r"[\d.,]+ m?s\b", "TIME", line)
    line = re.sub(r"\S*…", "…", line)
    return re.sub(r"[ ─]+", " ", line).strip()
