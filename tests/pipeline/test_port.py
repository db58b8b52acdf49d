"""`vendor.py port`: a new release is ported and right, or refused with a reason.

Each row of the tables in CONTRIBUTING.md, "When a port is refused", is a made-up release
here. Most of them were once accepted by a merge of lines, and broke every request.
"""

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest
import sdk
from conftest import Project

NEW = "9.2.0"
Files = Dict[str, str]


def later(*pairs: str, name: str = "wsgi.py") -> Files:
    """The later release, with the first text of each pair replaced by the second."""
    text = sdk.LATER[name]
    for old, new in zip(pairs[::2], pairs[1::2]):
        assert old in text, old
        text = text.replace(old, new)
    return {**sdk.LATER, name: text}


def patch(project: Project, name: str = "close-aware") -> str:
    return project.text(f"patches/{NEW}/{name}.patch")


# -- what must port, and be right

CALL = "response = self.app(environ, start_response)"
SIGNATURE = "(self, environ, start_response):"
TYPED = '(\n        self, environ: "dict[str, str]", start_response: "object"\n    ) -> "object":'
SCOPE = "with sentry_sdk.isolation_scope() as scope:"
PORTED = {
    "renamed variable": later("response", "answer"),
    "renamed span": later("transaction =", "root =", "with transaction:", "with root:"),
    "annotated context variable": later("applied = C", 'applied: "ContextVar[bool]" = C'),
    "context variable on three lines": later('("applied")', '(\n    "applied"\n)'),
    "typed signature": later(f"__call__{SIGNATURE}", f"__call__{TYPED}"),
    "call on three lines": later(CALL, f"{CALL[:20]}\n{' ' * 28}environ, start_response\n)"),
    "reformatted file": later("    ", "  "),
    "moved line": later("\n\nclass Sentry", "\n\nLIMIT = 1\n\n\nclass Sentry"),
    "regrouped imports": later("import sys\n", "import sys, os\nimport contextlib\n"),
    "another with": later(SCOPE, SCOPE.replace("with", "with open(__file__),")),
    "span made in the with": later("with transaction:", "with sentry_sdk.start_transaction():"),
    "form feed, letters of two bytes": later("def _capture", "# Größe: \f\ndef _capture"),
    "import with a remark": later("_sdk\n", "_sdk  # noqa\n", name="django/middleware.py"),
    "import on three lines": later(
        "import SentryAsgi", "import (\n    SentryAsgi", "e\n\n", "e,\n)\n\n", name="django/asgi.py"
    ),
}


@pytest.mark.parametrize("files", PORTED.values(), ids=PORTED)
def test_ports(project: Project, files: Files) -> None:
    """The same five places, wherever they are: the result is driven."""
    project.release(NEW, files)
    (changed,) = (name for name in files if files[name] != sdk.LATER[name])
    assert project.vendor("port", NEW) == (
        f"sentry-sdk {NEW}, since 9.1.0:\n  {changed}: changed\n"
        f"patches/{NEW}: written\n1 of 1 releases ported\n"
    )
    text = patch(project).split("+++ b/wsgi.py")[1].replace("partial(\n+", "partial(")
    added = re.findall(r"(?m)^\+ *(.+)$", text)
    assert added[0] == "from sentry_sdk.integrations.wsgi import _wsgi_middleware_applied"
    assert added[2] == "@close_aware"
    assert re.fullmatch(r"\w+ = yield partial\( *self\.app, .*", added[3])
    assert added[4].startswith("skipped = is_disposal(error) or isinstance(error, SystemExit)")
    assert added[5:] == ["class _ReplacedScopedResponse:"]
    assert "+    return _spared.start_span(" in patch(project, "skip-unsampled-spans")


def test_port_is_the_edit_and_nothing_else(project: Project) -> None:
    """Byte for byte, with upstream's line numbers."""
    project.release(NEW, later("import sys\n", "import os\nimport sys\n"))
    project.vendor("port", NEW)
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
    output = project.refused("check", status=1)
    for release in sdk.RELEASES:
        assert f"patches/{release}: not what the edits give\n" in output
    assert "next: python3 scripts/vendor.py port --all" in output
    project.vendor("port", "--all")
    project.vendor("check")
    assert "+    @close_aware  # changed\n" in project.text("patches/9.1.0/close-aware.patch")


def test_edits_that_change_the_same_line(project: Project) -> None:
    """Each patch's lines are upstream's: which of the two is meant cannot be told."""
    edit = "scripts/pipeline/edits/skip_unsampled_spans.py"
    scoped = 'wsgi.rename(next(n for n in wsgi.walk(ast.ClassDef) if n.name[0] == "_"), "_X")'
    project.replace(
        edit, "    wsgi = files", f'    wsgi = files["wsgi.py"]\n    {scoped}\n    x = files'
    )
    assert "does not apply to wsgi.py at line 46" in project.refused("port", "--all", status=3)


# -- what is refused

GUARD = "        _wsgi_middleware_applied.set(True)\n"
NO_CLIENT = "        if not sentry_sdk.is_initialized():\n"
EARLY = f"{NO_CLIENT}            return self.app(environ, start_response)\n\n{GUARD}"
WITH = "                with transaction:\n"
STACK = "stack = ExitStack()\nstack.enter_context(transaction)\nwith stack:\n"
DEF = "    def __call__"
HELPER = f"    def serve{SIGNATURE}\n        return self.app(environ, start_response)\n\n{DEF}"
BRANCHES = f"if environ:\n    {CALL}\nelse:\n    {CALL}"
NO_SPANS = {"django/__init__.py": sdk.DJANGO.replace("sentry_sdk.start_span", "sentry_sdk.Span")}


def indented(text: str, spaces: int) -> str:
    return text.replace("\n", "\n" + " " * spaces).rstrip(" ")


REFUSED: Dict[str, Tuple[Any, ...]] = {
    "return without init()": (
        later(GUARD, EARLY),
        "wsgi.py: return self.app(environ, start_response): returns before the application",
        "def __call__ uses the application, too",
    ),
    "guard with another condition": (
        later(".get(False):", ".get(False) or not environ:"),
        "returns before the application is called",
    ),
    "new subpackage": (
        {**sdk.LATER, "django/orm/__init__.py": "", "django/orm/sql.py": ""},
        "django/orm/__init__.py added; django/orm/sql.py added",
        "FILES of scripts/pipeline",
    ),
    "new data": ({**sdk.LATER, "django/data.json": "{}"}, "django/data.json added"),
    "removed file": (
        {name: text for name, text in sdk.LATER.items() if name != "django/views.py"},
        "django/views.py removed",
    ),
    "moved file": (
        {name.replace("wsgi.py", "wsgi/__init__.py"): text for name, text in sdk.LATER.items()},
        "wsgi/__init__.py added; wsgi.py removed",
    ),
    "middleware from a new module": (
        later("s.wsgi import", "s.wsgi_core import", name="django/__init__.py"),
        "does not import vendored_integration._vendor.wsgi.SentryWsgiMiddleware",
    ),
    "stock module": (
        later(
            "from django.core.handlers",
            "from sentry_sdk.integrations import wsgi\nfrom django.core.handlers",
            name="django/__init__.py",
        ),
        "imports stock's sentry_sdk.integrations.wsgi\n",
    ),
    "span that the response's close() ends": (
        later(WITH, "                transaction.__enter__()\n                if 1:\n"),
        "partial(self.app, environ, start_response): other code ends the span, not a `with`",
    ),
    "ExitStack": (
        later(
            WITH, " " * 16 + indented(STACK, 16), "import sys", "from contextlib import ExitStack"
        ),
        "an ExitStack ends the span",
    ),
    "third argument of _ScopedResponse": (
        later("(scope, response)\n", "(scope, response, transaction)\n"),
        "wsgi.py:34: _ScopedResponse is called with other arguments",
    ),
    "application called in a helper": (
        later(DEF, HELPER, CALL, CALL.replace("app", "serve")),
        "exactly one assignment of self.app(...)",
        "found: none",
    ),
    "application called in two branches": (
        later(CALL, indented(BRANCHES, 24)),
        "exactly one assignment of self.app(...)",
        "found: line 28, line 30",
    ),
    "application called in one branch": (
        later(CALL, f"if environ:\n{' ' * 28}{CALL}"),
        "wsgi.py: if environ:: not every request reaches the call",
    ),
    "async twin": (
        later(DEF, HELPER.replace("def serve", "async def serve")),
        "async def serve uses the application, too",
    ),
    "async method": (
        later(DEF, "    async def __call__"),
        "exactly one def SentryWsgiMiddleware.__call__",
    ),
    "renamed class": (
        later("SentryWsgiMiddleware", "WsgiMiddleware"),
        "exactly one SentryWsgiMiddleware",
        "found: none",
    ),
    "renamed method": (
        later("__call__", "handle"),
        "exactly one def SentryWsgiMiddleware.__call__",
    ),
    "response exchanged": (
        later(
            "        return _Scoped", "        response = list(response)\n        return _Scoped"
        ),
        "wsgi.py: response = list(response): exchanges the response after the call",
    ),
    "another context variable": (
        later("\n\nclass Sentry", '\nother = ContextVar("other")\n\n\nclass Sentry'),
        "wsgi.py:10: another context variable",
    ),
    "no test for SystemExit": (
        later("SystemExit", "KeyboardInterrupt"),
        "exactly one assignment of a test for SystemExit",
    ),
    "CR LF": (later("\n", "\r\n"), "wsgi.py: lines do not end as in a patch", "found: CR LF"),
    "no newline at the end": (
        later("    return processor\n", "    return processor"),
        "found: none at the end of the file",
    ),
    "name that nothing binds": (later("return event", "return evnt"), "undefined name 'evnt'"),
    "module that lies beside the vendored ones": (
        later("def", "from .keys import key\n\n\ndef", name="django/caching.py"),
        "imports vendored_integration._vendor.django.keys.key, which does not exist",
    ),
    "module that the wheel has not": (
        later(
            "def",
            "def late():\n    from sentry_sdk.gone import x\n\n\ndef",
            name="django/caching.py",
        ),
        "imports sentry_sdk.gone.x, which does not exist",
    ),
    "not Python": (later("import sys\n", "import sys (\n"), "wsgi.py:1: not Python"),
    "signals": (
        later("Signal._live", "Signal.live", name="django/signals_handlers.py"),
        "edit skip-unsampled-spans: django/signals_handlers.py",
        "Signal._live_receivers",
    ),
    "views": (
        later("BaseHandler.make", "BaseHandler.make_a", name="django/views.py"),
        "BaseHandler.make_view_atomic",
    ),
    "middleware": (
        later("not integration", "integration", name="django/middleware.py"),
        "exactly one `not integration.middleware_spans`",
    ),
    "regular expressions": (
        later("resolver_or_pattern.regex", "pattern", name="django/transactions.py"),
        "exactly one resolver_or_pattern.regex",
    ),
    "query sets": (
        later("@add_global_repr_processor", "@property", name="django/__init__.py"),
        "exactly one function decorated with add_global_repr_processor",
    ),
    "request processor": (
        later("(_make_wsgi_event_processor(environ))", "(_make_wsgi_event_processor)"),
        "exactly one call of _make_wsgi_event_processor",
    ),
    "spans": (
        {**later("sentry_sdk.start", "sentry_sdk.", name="django/middleware.py"), **NO_SPANS},
        "django/: no call of sentry_sdk.start_span",
    ),
    # What no look at the source tells, the drive finds.
    "name that does not exist": (
        later("import event_from", "import gone, event_from"),
        "the built package does not serve a request as it has to",
        "ImportError: cannot import name 'gone'",
    ),
    "error event without its request": (
        later('event["request"]', 'event["other"]'),
        "GET /fail, static lifecycle: expected",
        "['no request']",
    ),
    "init() fails": (
        later("patch_views()\n", "patch_views()\n        {}['x']\n", name="django/__init__.py"),
        "KeyError: 'x'",
    ),
    "Django does not use the middleware": (
        later("WSGIHandler.__call__ =", "ignored =", name="django/__init__.py"),
        "GET /plain, static lifecycle: expected [b'one two', [0], []], found [b'one two', [], []]",
    ),
    "error of a body is lost": (
        later("_capture_exception()\n                        raise", "raise"),
        "GET /broken, static lifecycle: expected",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refuses(project: Project, case: Tuple[Any, ...]) -> None:
    """Nothing is written, and the message says what upstream did."""
    files, *words = case
    project.release(NEW, files)
    output = project.refused("port", NEW, status=1)
    assert output.startswith(f"sentry-sdk {NEW}: refused\n")
    assert "0 of 1 releases ported" in output
    assert not [word for word in words if word not in output], output


def rewritten(wheel: Path, ending: str, change: Callable[[bytes], bytes]) -> None:
    """Write the wheel anew, with the bytes of one file changed."""
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, change(data) if name.endswith(ending) else data)


def test_no_python_that_the_release_names(project: Project, tmp_path: Path) -> None:
    """Driven on another one it could fail for reasons of its own."""
    wheel = project.release(NEW, sdk.LATER)
    rewritten(wheel, "METADATA", lambda data: data.replace(b" 3.", b" 3.999"))
    output = project.refused("port", NEW, PATH=str(tmp_path))
    assert f"sentry-sdk {NEW}: no Python to run it with" in output
    assert "on PATH" in output


# -- which releases


def test_same_sources(project: Project) -> None:
    """The directory serves it too; and one that comes in between takes over."""
    project.release("9.1.1", sdk.LATER)
    assert "since 9.1.0: same sources" in project.vendor("port", "9.1.1")
    project.release("9.1.10", sdk.LATER)
    project.vendor("port", "9.1.10")
    served = json.loads(project.text("patches/9.1.0/lock.json"))["releases"]
    assert list(served) == ["9.1.0", "9.1.1", "9.1.10"]
    project.release("9.1.2", later("2", "3", name="django/templates.py"))
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
    project.release(NEW, later("__call__", "handle"))
    project.release("9.10.0", later("2", "3", name="django/templates.py"))
    output = project.vendor("status")
    missing = [line.split()[0] for line in output.splitlines() if line.endswith("not ported yet")]
    assert missing == [NEW, "9.10.0", "2"]
    assert "2 supported, by 2 directories; 2 not ported yet" in output
    assert "next: python3 scripts/vendor.py port --missing" in output
    output = project.vendor("port", "--missing", status=1)
    assert "patches/9.10.0: written\n1 of 2 releases ported" in output
    assert "1 not ported yet" in project.vendor("status")


def test_all_or_nothing(project: Project) -> None:
    """`port --all` that fails for one release leaves patches/ as it is."""
    project.release(NEW, later("__call__", "handle"))
    edit = "scripts/pipeline/edits/close_aware.py"
    project.replace(edit, '"@close_aware"', '"@close_aware  # x"')
    project.refused("port", "--all", status=1)


def test_from_any_directory(project: Project, tmp_path: Path) -> None:
    """`--find-links`: what pip's index has not."""
    sdk.wheel(tmp_path / "my links", NEW, later("2", "3", name="django/templates.py"))
    assert "could not download" in project.refused("port", NEW, status=2)
    project.vendor("port", NEW, "--find-links", str(tmp_path / "my links"))
    project.vendor("check")


def test_pre_release(project: Project, tmp_path: Path) -> None:
    """It is asked for, is ported or refused as any other, and is never mixed with final ones."""
    core = {**sdk.CORE, "__init__.py": "raise ImportError('not yet')\n"}
    project.release("9.0.0rc1", sdk.LATER)
    project.release("10.0.0b1", sdk.LATER, core=core)
    wheel = project.release("10.0.0b2", sdk.LATER)
    assert "or, with --pre, a pre-release" in project.refused("port", "10.0.0b2")
    assert "ImportError: not yet" in project.refused("port", "--pre", "10.0.0b1", status=1)
    finals = {name: data for name, data in project.snapshot().items() if "patches" in name}
    project.vendor("port", "--pre", "10.0.0b2")
    project.vendor("port", "--missing")
    project.vendor("check")
    for directory in project.path("patches").glob("[0-9]*"):
        shutil.rmtree(directory)
    project.vendor("port", "--all", "--pre")
    present = {name: data for name, data in project.snapshot().items() if "patches" in name}
    assert {name for name in present if name not in finals} == {
        f"patches/10.0.0b2/{name}"
        for name in ("close-aware.patch", "lock.json", "skip-unsampled-spans.patch")
    }
    assert finals.items() <= present.items()
    output = project.vendor("status")
    assert "10.0.0b2  supported, a pre-release\n" in output
    assert "10.0.0b1  a pre-release, not ported\n" in output
    assert "9.0.0rc1" not in output
    assert output.endswith("2 supported, by 2 directories; 0 not ported yet\n")

    assert "expected: one of 2.9.0, 9.1.0, 10.0.0b2\n" in project.refused("build", "9.0.0")
    assert "9.1.0" in project.vendor("build")
    assert "10.0.0b2" in project.vendor("build", "10.0.0b2")
    assert "['sentry-sdk==9.1.0']" in project.hook("get_requires_for_build_wheel")
    env = {"SENTRY_SDK_VERSION": "10.0.0b2"}
    assert "['sentry-sdk==10.0.0b2']" in project.hook("get_requires_for_build_wheel", **env)
    shutil.unpack_archive(str(wheel), str(tmp_path / "site"), "zip")
    (tmp_path / "out").mkdir()
    output = project.hook("build_wheel", str(tmp_path / "out"), site=tmp_path / "site", **env)
    assert output.endswith("vendored_integration-10.0.0b2.post1-py3-none-any.whl\n")


@pytest.mark.parametrize("args", [(), (NEW, "--missing"), ("--missing", "--all"), (NEW, "--all")])
def test_arguments_that_make_no_sense(project: Project, args: "Tuple[str, ...]") -> None:
    assert "vendor.py port: error: " in project.refused("port", *args)


@pytest.mark.parametrize("release", ["9.2.0.post1", "9.2.0+local", "newest", "1.45.1"])
def test_release_that_can_never_be_ported(project: Project, release: str) -> None:
    output = project.refused("port", "--pre", release)
    assert f"sentry-sdk {release}: cannot be ported" in output
    assert "final release from 2.0.0 on" in output


# -- damaged wheels


def field(offset: int, value: bytes) -> Callable[[Path], None]:
    """Change a field of each entry of the directory at the zip file's end."""

    def change(wheel: Path) -> None:
        parts = wheel.read_bytes().split(b"PK\1\2")
        at = offset - 4
        changed = [part[:at] + value + part[at + len(value) :] for part in parts[1:]]
        wheel.write_bytes(b"PK\1\2".join([parts[0], *changed]))

    return change


def bomb(wheel: Path) -> None:
    with zipfile.ZipFile(wheel, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sentry_sdk/zeros.py", bytes(60_000_000))


DAMAGES: "List[Tuple[Callable[[Path], Any], str]]" = [
    (lambda wheel: wheel.write_bytes(b"junk"), "is invalid"),
    (lambda wheel: rewritten(wheel, "s/wsgi.py", lambda data: data + b"# \xff\n"), "not UTF-8"),
    (lambda wheel: wheel.write_bytes(wheel.read_bytes().replace(b"S = 2", b"S = 3")), "Bad CRC-32"),
    (field(8, b"\1\0"), "encrypted"),
    (field(10, b"\x63\0"), "compression"),
    (bomb, "bytes when unpacked, more than 50,000,000"),
    (lambda wheel: sdk.wheel(wheel.parent, NEW, sdk.LATER, ""), "no licence, or another one"),
    (lambda wheel: sdk.wheel(wheel.parent, NEW, sdk.LATER, "Closed\n"), "found: Closed"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[words for _, words in DAMAGES])
def test_damaged_wheel(project: Project, damage: Callable[[Path], Any], words: str) -> None:
    """A message and an exit status of its own, and nothing written."""
    damage(project.release(NEW, sdk.LATER))
    output = project.refused("port", NEW, status=3)
    assert words in output, output
