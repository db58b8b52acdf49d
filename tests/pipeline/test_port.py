"""`vendor.py port`: a new release is ported and right, or refused with a reason.

Each row of the tables in CONTRIBUTING.md, "When a port is refused", is a made-up release
here. Most of them were once accepted by a merge of lines, and broke every request.
"""

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Dict

import pytest
import sdk
from conftest import Project

NEW = "9.2.0"


def changed(name: str, *pairs: str) -> Dict[str, str]:
    """The later release, with the first text of each pair replaced by the second."""
    text = sdk.LATER[name]
    for old, new in zip(pairs[::2], pairs[1::2]):
        assert old in text, old
        text = text.replace(old, new)
    return {**sdk.LATER, name: text}


def port(project: Project, files: Dict[str, str]) -> str:
    """Port a release with these files, which must succeed."""
    project.release(NEW, files)
    output = project.vendor("port", NEW)
    assert f"patches/{NEW}: written\n" in output
    project.vendor("check", NEW)
    return output


def patch(project: Project, name: str = "close-aware") -> str:
    return project.text(f"patches/{NEW}/{name}.patch")


# -- what must port, and be right

SIGNATURE = "def __call__(self, environ, start_response):"
CALL = "response = self.app(environ, start_response)"
NEWLINE_CALL = """\
response = self.app(
                            environ, start_response
                        )"""


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(changed("wsgi.py", "response", "answer"), id="renamed variable"),
        pytest.param(
            changed("wsgi.py", "transaction =", "root =", "with transaction:", "with root:"),
            id="renamed span",
        ),
        pytest.param(
            changed("wsgi.py", "applied = C", 'applied: "ContextVar[bool]" = C'),
            id="annotated context variable",
        ),
        pytest.param(
            changed("wsgi.py", 'ContextVar("applied")', 'ContextVar(\n    "applied"\n)'),
            id="context variable on three lines",
        ),
        pytest.param(
            changed(
                "wsgi.py",
                SIGNATURE,
                'def __call__(\n        self, environ: "dict[str, str]", start_response: "object"\n'
                '    ) -> "object":',
            ),
            id="typed signature",
        ),
        pytest.param(changed("wsgi.py", CALL, NEWLINE_CALL), id="call on three lines"),
        pytest.param(changed("wsgi.py", "    ", "  "), id="reformatted file"),
        pytest.param(
            changed("wsgi.py", "\n\nclass Sentry", "\n\nLIMIT = 1\n\n\nclass Sentry"),
            id="moved line",
        ),
        pytest.param(
            changed("wsgi.py", "import sys\n", "import sys, os\nimport contextlib\n"),
            id="regrouped imports",
        ),
        pytest.param(
            changed(
                "wsgi.py",
                "with sentry_sdk.isolation_scope() as scope:",
                "with open(__file__), sentry_sdk.isolation_scope() as scope:",
            ),
            id="another with around the call",
        ),
        pytest.param(
            changed("wsgi.py", "with transaction:", "with sentry_sdk.start_transaction():"),
            id="span made in the with",
        ),
        pytest.param(
            changed("django/middleware.py", "import sentry_sdk\n", "import sentry_sdk  # noqa\n"),
            id="import with a remark",
        ),
        pytest.param(
            changed(
                "django/asgi.py",
                "import SentryAsgi",
                "import (\n    SentryAsgi",
                "e\n\n",
                "e,\n)\n\n",
            ),
            id="import on three lines",
        ),
        pytest.param(
            changed("wsgi.py", "def _capture_exception", "# Größe: \f\ndef _capture_exception"),
            id="form feed, and letters of two bytes",
        ),
    ],
)
def test_ports(project: Project, files: Dict[str, str]) -> None:
    """The same five places, wherever they are: the result is driven."""
    port(project, files)
    text = patch(project).split("+++ b/wsgi.py")[1].replace("partial(\n+", "partial(")
    added = re.findall(r"(?m)^\+ *(.+)$", text)
    assert added[0] == "from sentry_sdk.integrations.wsgi import _wsgi_middleware_applied"
    assert added[2] == "@close_aware"
    assert re.fullmatch(r"\w+ = yield partial\( *self\.app, .*", added[3])
    assert added[4].startswith("skipped = is_disposal(error) or isinstance(error, SystemExit)")
    assert added[5:] == ["class _ReplacedScopedResponse:"]
    saved = patch(project, "skip-unsampled-spans")
    assert "+    return _spared.start_span(" in saved


def test_port_is_the_edit_and_nothing_else(project: Project) -> None:
    """Byte for byte, with upstream's line numbers."""
    port(project, changed("wsgi.py", "import sys\n", "import os\nimport sys\n"))
    assert patch(project).split("\n\n", 1)[1] == (
        "--- a/wsgi.py\n"
        "+++ b/wsgi.py\n"
        "@@ -9 +9,2 @@\n"
        '-_wsgi_middleware_applied = ContextVar("applied")\n'
        "+from sentry_sdk.integrations.wsgi import _wsgi_middleware_applied\n"
        "+from vendored_integration.runtime import _ScopedResponse, close_aware, is_disposal\n"
        "@@ -15,0 +17 @@\n"
        "+    @close_aware\n"
        "@@ -28 +30 @@\n"
        "-                        response = self.app(environ, start_response)\n"
        "+                        response = yield partial(self.app, environ, start_response)\n"
        "@@ -42 +44 @@\n"
        "-    skipped = isinstance(error, SystemExit) and error.code in (0, None)\n"
        "+    skipped = is_disposal(error) or isinstance(error, SystemExit)"
        " and error.code in (0, None)\n"
        "@@ -47 +49 @@\n"
        "-class _ScopedResponse:\n"
        "+class _ReplacedScopedResponse:\n"
    )


def test_port_names_what_upstream_has_changed(project: Project) -> None:
    files = changed("django/templates.py", "2", "3")
    output = port(project, files)
    assert output.startswith(f"sentry-sdk {NEW}, since 9.1.0:\n  django/templates.py: changed\n"), (
        output
    )


def test_same_port_same_bytes(project: Project) -> None:
    """patches/ removed, and all made anew: the way to prove that it holds nothing else."""
    before = project.snapshot()
    for path in project.path("patches").glob("[0-9]*"):
        shutil.rmtree(path)
    project.vendor("port", "--all")
    assert project.snapshot() == before
    assert "written" not in project.vendor("port", "--all")


def test_changed_edit_is_one_command(project: Project) -> None:
    """`check` says so before, and is content afterwards."""
    edit = "scripts/pipeline/edits/close_aware.py"
    project.replace(edit, '"@close_aware"', '"@close_aware  # changed"')
    output = project.vendor("check", status=1)
    for release in sdk.RELEASES:
        assert f"patches/{release}/close-aware.patch: not what the edits give\n" in output
    assert "next: python3 scripts/vendor.py port --all" in output
    project.vendor("port", "--all")
    project.vendor("check")
    assert "+    @close_aware  # changed\n" in project.text("patches/9.1.0/close-aware.patch")


def test_edits_that_change_the_same_line(project: Project) -> None:
    """Each patch's lines are upstream's: which of the two is meant cannot be told."""
    edit = "scripts/pipeline/edits/skip_unsampled_spans.py"
    project.replace(edit, 'wsgi = files["wsgi.py"]', 'wsgi = files["wsgi.py"]\n    raise_it(wsgi)')
    project.write(
        edit,
        project.text(edit)
        + "\n\ndef raise_it(wsgi: Source) -> None:\n"
        + "    node = next(wsgi.walk(ast.ClassDef))\n"
        + "    call = next(node for node in wsgi.walk(ast.Assign) if 'self.app' in wsgi.code(node)"
        + " and 'response' in wsgi.code(node))\n"
        + "    wsgi.insert_before(call, 'x = ')\n",
    )
    assert "is changed by two patches" in project.refused("port", "--all", status=1)


# -- what is refused

GUARD = "        _wsgi_middleware_applied.set(True)\n"
EARLY = "        if {}:\n            return self.app(environ, start_response)\n\n" + GUARD
WITH = "                with transaction:\n"
HELPER = """\
    def _serve(self, environ, start_response):
        return self.app(environ, start_response)

    def __call__"""
BRANCHES = """\
if environ:
                            response = self.app(environ, start_response)
                        else:
                            response = self.app({}, start_response)"""
ONLY_IF = "if environ:\n                            " + CALL
STACK = """\
                stack = ExitStack()
                stack.enter_context(transaction)
                with stack:
"""
TWIN = """\
    async def serve(self, environ, start_response):
        return await self.app(environ, start_response)

    def __call__"""
NEW_MODULE = {"integrations/wsgi_core.py": "class SentryWsgiMiddleware:\n    pass\n"}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        pytest.param(
            changed("wsgi.py", GUARD, EARLY.format("not sentry_sdk.is_initialized()")),
            [
                "wsgi.py: return self.app(environ, start_response): returns before",
                "def __call__ uses the application, too",
            ],
            id="return without init()",
        ),
        pytest.param(
            changed("wsgi.py", GUARD, EARLY.format('environ["REQUEST_METHOD"] == "OPTIONS"')),
            ["wsgi.py: return self.app(environ, start_response): returns before the application"],
            id="return for OPTIONS",
        ),
        pytest.param(
            changed("wsgi.py", ".get(False):", ".get(False) or not environ:"),
            ["returns before the application is called"],
            id="guard with another condition",
        ),
        pytest.param(
            {**sdk.LATER, "django/orm/__init__.py": "", "django/orm/sql.py": ""},
            ["django/orm/__init__.py added; django/orm/sql.py added", "FILES of scripts/pipeline"],
            id="new subpackage",
        ),
        pytest.param(
            {**sdk.LATER, "django/forms.py": ""}, ["django/forms.py added"], id="new file"
        ),
        pytest.param(
            {**sdk.LATER, "django/data.json": "{}"}, ["django/data.json added"], id="new data"
        ),
        pytest.param(
            {name: text for name, text in sdk.LATER.items() if name != "django/views.py"},
            ["django/views.py removed"],
            id="removed file",
        ),
        pytest.param(
            {name.replace("wsgi.py", "wsgi/__init__.py"): text for name, text in sdk.LATER.items()},
            ["wsgi/__init__.py added; wsgi.py removed"],
            id="moved file",
        ),
        pytest.param(
            changed(
                "django/__init__.py", "integrations.wsgi import", "integrations.wsgi_core import"
            ),
            [
                "imports stock's sentry_sdk.integrations.wsgi_core.SentryWsgiMiddleware",
                "does not import vendored_integration._vendor.wsgi.SentryWsgiMiddleware",
            ],
            id="middleware from a new module",
        ),
        pytest.param(
            changed(
                "django/__init__.py",
                "from sentry_sdk.integrations.wsgi import",
                "from sentry_sdk.integrations import wsgi\nfrom sentry_sdk.integrations.wsgi import",
            ),
            ["imports stock's sentry_sdk.integrations.wsgi\n"],
            id="stock module",
        ),
        pytest.param(
            changed(
                "wsgi.py", WITH, "                transaction.__enter__()\n                if 1:\n"
            ),
            [
                "yield partial(self.app, environ, start_response): other code ends the span, not a `with`"
            ],
            id="span that the response's close() ends",
        ),
        pytest.param(
            changed(
                "wsgi.py",
                WITH,
                STACK,
                "import sys\n",
                "import sys\nfrom contextlib import ExitStack\n",
            ),
            ["an ExitStack ends the span"],
            id="ExitStack",
        ),
        pytest.param(
            changed("wsgi.py", "(scope, response)\n", "(scope, response, transaction)\n"),
            ["wsgi.py:34: _ScopedResponse is called with other arguments"],
            id="third argument of _ScopedResponse",
        ),
        pytest.param(
            changed(
                "wsgi.py",
                "    def __call__",
                HELPER,
                CALL,
                "response = self._serve(environ, start_response)",
            ),
            ["exactly one assignment of self.app(...)", "found: none"],
            id="application called in a helper",
        ),
        pytest.param(
            changed("wsgi.py", CALL, BRANCHES),
            ["exactly one assignment of self.app(...)", "found: line 28, line 30"],
            id="application called in two branches",
        ),
        pytest.param(
            changed("wsgi.py", CALL, ONLY_IF),
            ["wsgi.py: if environ:: not every request reaches the call"],
            id="application called in one branch",
        ),
        pytest.param(
            changed("wsgi.py", "    def __call__", TWIN),
            ["async def serve uses the application, too"],
            id="async twin",
        ),
        pytest.param(
            changed("wsgi.py", "    def __call__", "    async def __call__"),
            ["exactly one def SentryWsgiMiddleware.__call__"],
            id="async method",
        ),
        pytest.param(
            changed("wsgi.py", "SentryWsgiMiddleware", "WsgiMiddleware"),
            ["exactly one SentryWsgiMiddleware", "found: none"],
            id="renamed class",
        ),
        pytest.param(
            changed("wsgi.py", "__call__", "handle"),
            ["exactly one def SentryWsgiMiddleware.__call__"],
            id="renamed method",
        ),
        pytest.param(
            changed(
                "wsgi.py",
                "        return _Scoped",
                "        response = list(response)\n        return _Scoped",
            ),
            ["wsgi.py: response = list(response): exchanges the response after the call"],
            id="response exchanged",
        ),
        pytest.param(
            changed(
                "wsgi.py", "\n\nclass Sentry", '\nother = ContextVar("other")\n\n\nclass Sentry'
            ),
            ["wsgi.py:10: another context variable"],
            id="another context variable",
        ),
        pytest.param(
            changed("wsgi.py", "SystemExit", "KeyboardInterrupt"),
            ["exactly one assignment of a test for SystemExit"],
            id="no test for SystemExit",
        ),
        pytest.param(
            {**sdk.LATER, "wsgi.py": sdk.WSGI.replace("\n", "\r\n")},
            ["wsgi.py: lines do not end as in a patch", "found: CR LF"],
            id="CR LF",
        ),
        pytest.param(
            {**sdk.LATER, "wsgi.py": sdk.WSGI.rstrip("\n")},
            ["found: none at the end of the file"],
            id="no newline at the end",
        ),
        pytest.param(
            changed("wsgi.py", "return event", "return evnt"),
            ["undefined name 'evnt'"],
            id="name that nothing binds",
        ),
        pytest.param(
            changed("django/caching.py", "def", "from .keys import key\n\n\ndef"),
            ["imports vendored_integration._vendor.django.keys.key, which does not exist"],
            id="module that does not exist",
        ),
        pytest.param(
            changed("wsgi.py", "import event_from", "import gone, event_from"),
            ["imports sentry_sdk.utils.gone, which does not exist"],
            id="name that does not exist",
        ),
        pytest.param(
            changed("wsgi.py", "import sys\n", "import sys (\n"),
            ["wsgi.py:1: not Python"],
            id="not Python",
        ),
        pytest.param(
            changed("django/signals_handlers.py", "Signal._live", "Signal.live"),
            ["edit skip-unsampled-spans", "django/signals_handlers.py", "Signal._live_receivers"],
            id="signals",
        ),
        pytest.param(
            changed("django/views.py", "BaseHandler.make", "BaseHandler.make_a"),
            ["django/views.py", "BaseHandler.make_view_atomic"],
            id="views",
        ),
        pytest.param(
            changed("django/middleware.py", "not integration", "integration"),
            ["exactly one `not integration.middleware_spans`"],
            id="middleware",
        ),
        pytest.param(
            changed("django/transactions.py", "resolver_or_pattern.regex", "pattern"),
            ["exactly one resolver_or_pattern.regex"],
            id="regular expressions",
        ),
        pytest.param(
            changed("django/__init__.py", "@add_global_repr_processor", "@property"),
            ["exactly one function decorated with add_global_repr_processor"],
            id="query sets",
        ),
        pytest.param(
            changed(
                "wsgi.py", "(_make_wsgi_event_processor(environ))", "(_make_wsgi_event_processor)"
            ),
            ["exactly one call of _make_wsgi_event_processor"],
            id="request processor",
        ),
        pytest.param(
            {
                **changed("django/middleware.py", "sentry_sdk.start_span", "sentry_sdk.Span"),
                "django/__init__.py": sdk.DJANGO.replace(
                    "sentry_sdk.start_span", "sentry_sdk.Span"
                ),
            },
            ["django/: no call of sentry_sdk.start_span"],
            id="spans",
        ),
    ],
)
def test_refuses(project: Project, files: Dict[str, str], words: "list[str]") -> None:
    """Nothing is written, and the message says what upstream did."""
    project.release(NEW, files, core={**sdk.CORE, **NEW_MODULE})
    output = project.refused("port", NEW, status=1)
    assert output.startswith(f"sentry-sdk {NEW}: not ported\n")
    assert "0 of 1 releases ported" in output
    for word in words:
        assert word in output, output


@pytest.mark.parametrize(
    ("files", "words"),
    [
        pytest.param(
            changed("wsgi.py", 'event["request"]', 'event["other"]'),
            ["error of a view, static lifecycle", "found ['no request']"],
            id="error event without its request",
        ),
        pytest.param(
            changed("django/__init__.py", "patch_views()\n", "patch_views()\n        {}['x']\n"),
            ["KeyError: 'x'"],
            id="init() fails",
        ),
        pytest.param(
            changed("django/__init__.py", "WSGIHandler.__call__ =", "ignored ="),
            ["GET /plain, static lifecycle", "found (b'one two', 0, [])"],
            id="Django does not use the middleware",
        ),
        pytest.param(
            changed("wsgi.py", "_capture_exception()\n                        raise", "raise"),
            ["error of a body, static lifecycle: expected (1, ["],
            id="error of a body is lost",
        ),
    ],
)
def test_drive_refuses(project: Project, files: Dict[str, str], words: "list[str]") -> None:
    """What no look at the source tells: the built package serves requests before it is kept."""
    project.release(NEW, files)
    output = project.refused("port", NEW, status=1)
    assert "the built package does not serve a request as it has to" in output
    for word in words:
        assert word in output, output


def test_pre_release(project: Project) -> None:
    """It is asked for, and ported or refused as any other."""
    core = {**sdk.CORE, "__init__.py": "raise ImportError('not yet')\n"}
    project.release("10.0.0b1", sdk.LATER, core=core)
    project.release("10.0.0b2", sdk.LATER)
    assert "no pre-releases" in project.refused("port", "10.0.0b1")
    assert "0 not ported yet" in project.vendor("status")
    output = project.refused("port", "--pre", "10.0.0b1", status=1)
    assert "ImportError: not yet" in output
    project.vendor("port", "--pre", "10.0.0b2")
    assert "10.0.0b2" in json.loads(project.text("patches/9.1.0/lock.json"))["releases"]
    project.vendor("check")
    project.vendor("build", "10.0.0b2")


def test_no_python_that_the_release_names(project: Project, tmp_path: Path) -> None:
    """Driven on another one it could fail for reasons of its own."""
    project.release(NEW, sdk.LATER)
    wheel = next(project.index.glob(f"*-{NEW}-*"))
    rewritten(wheel, "METADATA", lambda data: data.replace(b" 3.", b" 3.999"))
    output = project.refused("port", NEW, HOME=str(tmp_path), PATH=str(tmp_path))
    assert f"sentry-sdk {NEW}: no Python to run it with" in output
    assert "on PATH" in output


# -- which releases


def test_same_sources(project: Project) -> None:
    """The directory serves it too; and one that comes in between takes over."""
    project.release("9.1.1", sdk.LATER)
    assert "since 9.1.0: same sources" in project.vendor("port", "9.1.1")
    project.release("9.1.10", sdk.LATER)
    project.vendor("port", "9.1.10")
    assert list(json.loads(project.text("patches/9.1.0/lock.json"))["releases"]) == [
        *("9.1.0", "9.1.1", "9.1.10")
    ]
    project.release("9.1.2", changed("django/templates.py", "2", "3"))
    project.vendor("port", "9.1.2")
    directories = sorted(path.name for path in project.path("patches").iterdir())
    assert directories == ["2.9.0", "9.1.0", "9.1.10", "9.1.2"]
    project.vendor("check")
    before = project.snapshot()
    project.vendor("port", "--all")
    assert project.snapshot() == before


def test_missing(project: Project) -> None:
    """All that `status` lists; one that is refused does not stop the others."""
    project.release("1.45.1", sdk.FILES)
    project.release("9.11.0rc1", sdk.LATER)
    project.release(NEW, changed("wsgi.py", "__call__", "handle"))
    project.release("9.10.0", changed("django/templates.py", "2", "3"))
    output = project.vendor("status")
    assert [line.split()[0] for line in output.splitlines() if "not ported yet" in line] == [
        *(NEW, "9.10.0", "2")
    ]
    assert "2 supported, by 2 directories; 2 not ported yet" in output
    assert "next: python3 scripts/vendor.py port --missing" in output
    output = project.vendor("port", "--missing", status=1)
    assert "patches/9.10.0: written\n1 of 2 releases ported" in output
    assert "1 not ported yet" in project.vendor("status")


def test_all_or_nothing(project: Project) -> None:
    """`port --all` that fails for one release leaves patches/ as it is."""
    project.release(NEW, changed("wsgi.py", "__call__", "handle"))
    project.replace(
        "scripts/pipeline/edits/close_aware.py", '"@close_aware"', '"@close_aware  # x"'
    )
    project.refused("port", "--all", status=1)


def test_from_any_directory(project: Project, tmp_path: Path) -> None:
    """`--find-links`: pip's index is not asked."""
    sdk.wheel(tmp_path / "links", NEW, changed("django/templates.py", "2", "3"))
    assert "could not download" in project.refused("port", NEW, status=2)
    project.vendor("port", NEW, "--find-links", str(tmp_path / "links"))
    project.vendor("check")


@pytest.mark.parametrize("args", [(), (NEW, "--missing"), ("--missing", "--all"), (NEW, "--all")])
def test_arguments_that_make_no_sense(project: Project, args: "tuple[str, ...]") -> None:
    assert "next: python3 scripts/vendor.py port" in project.refused("port", *args)


@pytest.mark.parametrize("release", ["9.2.0rc1", "9.2.0.post1", "9.2.0+local", "newest", "1.45.1"])
def test_release_that_can_never_be_supported(project: Project, release: str) -> None:
    assert release in project.refused("port", release)


# -- damaged wheels


def rewritten(wheel: Path, ending: str, change: object) -> None:
    """Write the wheel anew, with the bytes of one file changed."""
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, change(data) if name.endswith(ending) else data)  # type: ignore[operator]


def junk(wheel: Path) -> None:
    wheel.write_bytes(b"junk")


def not_utf8(wheel: Path) -> None:
    rewritten(wheel, "integrations/wsgi.py", lambda data: data + b"# \xff\n")


def corrupt(wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes().replace(b"TEMPLATES = 2", b"TEMPLATES = 3"))


def flag(wheel: Path, offset: int, value: bytes) -> None:
    """Change a field of each entry of the directory at the zip file's end."""
    data = bytearray(wheel.read_bytes())
    start = 0
    while (start := data.find(b"PK\1\2", start)) >= 0:
        data[start + offset : start + offset + 2] = value
        start += 4
    wheel.write_bytes(bytes(data))


def encrypted(wheel: Path) -> None:
    flag(wheel, 8, b"\1\0")


def unknown_compression(wheel: Path) -> None:
    flag(wheel, 10, b"\x63\0")


def bomb(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sentry_sdk/zeros.py", bytes(60_000_000))


def no_license(wheel: Path) -> None:
    sdk.wheel(wheel.parent, NEW, sdk.LATER, license=None)


def other_license(wheel: Path) -> None:
    sdk.wheel(wheel.parent, NEW, sdk.LATER, license="Proprietary\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (junk, "is invalid"),
        (not_utf8, "wsgi.py: not UTF-8"),
        (corrupt, "Bad CRC-32"),
        (encrypted, "encrypted"),
        (unknown_compression, "compression"),
        (bomb, "bytes when unpacked, more than 50,000,000"),
        (no_license, "no licence, or another one"),
        (other_license, "found: Proprietary"),
    ],
)
def test_damaged_wheel(project: Project, damage: "object", words: str) -> None:
    """A message and an exit status of its own, and nothing written."""
    damage(project.release(NEW, sdk.LATER))  # type: ignore[operator]
    output = project.refused("port", NEW, status=3)
    assert words in output, output
