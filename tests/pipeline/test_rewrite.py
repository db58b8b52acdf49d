"""Rewrite rules: none without effect, no reference left."""

import pytest
import sdk
from conftest import Project


def refused(project: Project, name: str, text: str) -> str:
    project.release("9.2.0", {**sdk.FILES, name: text})
    project.patches("9.2.0")
    return project.refused("refresh", "9.2.0")


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("django/asgi.py", sdk.ASGI.replace("`", ""), "docstring-asgi"),
        ("django/asgi.py", sdk.ASGI.replace("import Sentry", "import"), "asgi-middleware"),
        ("django/middleware.py", sdk.MIDDLEWARE.replace("sdk\n", "sdk.x\n"), "import-spared"),
        ("django/middleware.py", sdk.MIDDLEWARE.replace("start_", "begin_"), "unseen-spans"),
        ("django/middleware.py", sdk.MIDDLEWARE.replace("not ", ""), "unseen-middleware"),
        ("django/signals_handlers.py", "", "unseen-signals"),
        (
            "django/transactions.py",
            sdk.TRANSACTIONS.replace("_make_", ""),
            "lazy-request-processor",
        ),
        ("django/transactions.py", sdk.TRANSACTIONS.replace("regex =", "x ="), "patterns-of-today"),
        ("django/__init__.py", sdk.DJANGO.replace("@", "# @"), "quick-query-sets"),
        ("django/views.py", "", "unseen-views"),
        ("django/__init__.py", "from sentry_sdk.integrations.wsgi import a\n", "import-django"),
        ("django/__init__.py", "from sentry_sdk.integrations.django import a\n", "import-wsgi"),
    ],
)
def test_rule_that_matches_nothing(project: Project, name: str, text: str, rule: str) -> None:
    output = refused(project, name, text)
    assert f"rule {rule} matches nothing" in output
    assert "scripts/pipeline/rewrite.py" in output


@pytest.mark.parametrize(
    "line",
    [
        "import sentry_sdk.integrations.wsgi",
        "import sentry_sdk.integrations.django.asgi as asgi",
        "x = 'sentry_sdk.integrations.wsgi'",
        "import_module('sentry_sdk.integrations.django')",
        "import_module('.wsgi', 'sentry_sdk.integrations')",
        "import_module('..integrations.django', __name__)",
        "# see sentry_sdk.integrations.wsgi",
        "from sentry_sdk.integrations import wsgi",
        "from sentry_sdk.integrations import _wsgi_common, django as d",
        "from ..wsgi import handle",
        "from .. import wsgi",
        "from .._wsgi_common import x",
        "if 1: from sentry_sdk.integrations import wsgi",
    ],
)
def test_reference_that_no_rule_knows(project: Project, line: str) -> None:
    """The message names file and line."""
    output = refused(project, "django/tasks.py", f"x = 1\n{line}\n")
    assert f"django/tasks.py:2: {line}" in output
    assert "scripts/pipeline/rewrite.py" in output


@pytest.mark.parametrize(
    "line", ["from ._wsgi_common import x", "from .django import x", "from . import x"]
)
def test_relative_import_in_the_one_file_that_has_no_neighbours(
    project: Project, line: str
) -> None:
    """_vendor/ has wsgi.py and django/ only; these would fail at run time."""
    assert "wsgi.py:1: " in refused(project, "wsgi.py", f"{line}\n{sdk.WSGI}")


def test_reference_over_several_lines(project: Project) -> None:
    text = "from sentry_sdk.integrations import (\n    _common,\n    wsgi,\n)\n"
    assert "django/tasks.py:1: " in refused(project, "django/tasks.py", text)


@pytest.mark.parametrize(
    "line",
    [
        "from sentry_sdk.integrations import Integration",
        "from sentry_sdk.integrations._wsgi_common import x",
        "from sentry_sdk.integrations.wsgi_other import x",
        "from .asgi import wrap",
        "from . import asgi",
        "x = 'auto.http.django'",
    ],
)
def test_other_imports_stay_as_they_are(project: Project, line: str) -> None:
    project.release("9.2.0", {**sdk.FILES, "django/tasks.py": f"{line}\n"})
    project.patches("9.2.0")
    project.vendor("refresh", "9.2.0")
    project.vendor("build", "9.2.0")
    assert project.vendored("django/tasks.py").startswith(f"{line}\n")


def test_file_that_is_not_python(project: Project) -> None:
    assert "django/tasks.py:2" in refused(project, "django/tasks.py", "x = 1\nx = (\n")


def test_line_numbers_are_the_sdks(project: Project) -> None:
    """A patch's line numbers are upstream's, so no rule may add or remove a line."""
    project.vendor("build", "9.0.0")
    for name, text in sdk.FILES.items():
        if name != "wsgi.py":
            tail = project.vendored(name).splitlines()[text.count("\n") :]
            assert tail[-1] == '__name__ = "sentry_sdk." + __name__'
            assert len(tail) == 4


def test_release_without_the_files(project: Project) -> None:
    project.release("9.2.0", {"wsgi.py": sdk.WSGI})
    project.patches("9.2.0")
    assert "layout" in project.refused("refresh", "9.2.0")


def test_release_without_a_licence(project: Project) -> None:
    """The wheel must carry it."""
    sdk.wheel(project.wheels, "9.2.0", sdk.FILES, license=None)
    project.patches("9.2.0")
    assert "LICENSE" in project.refused("refresh", "9.2.0")
