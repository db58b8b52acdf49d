"""What is wrong is found, by ``python -m vendored_integration`` and ``manage.py check``.

Each fault is there for real, in a Django project and a process of its own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sentry_sdk
from support.sdk import HAS_STREAM_LIFECYCLE, LIFECYCLES

import vendored_integration
from vendored_integration import _findings, checks

DOCS = Path(__file__).resolve().parents[2] / "docs" / "checks.md"

SETTINGS = """
SECRET_KEY = "test"
INSTALLED_APPS = []
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "mysite.urls"
USE_TZ = True
import sentry_sdk
DSN = "http://public@127.0.0.1:9/1"
# Enabling what else is installed takes longer than all the rest.
OPTIONS = {"dsn": DSN, "traces_sample_rate": 1.0, "auto_enabling_integrations": False}
"""
MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
OURS = "from vendored_integration import DjangoIntegration\n"
STOCK = "from sentry_sdk.integrations.django import DjangoIntegration as Stock\n"
GOOD = OURS + "sentry_sdk.init(**OPTIONS, integrations=[DjangoIntegration()])  # first\n"
#: Two integrations: the SDK takes the last one.
BOTH = OURS + STOCK + "sentry_sdk.init(**OPTIONS, integrations=[%s])  # here\n"


class Project:
    """A Django project in a directory, and what is told about it."""

    def __init__(self, directory):
        self.directory = directory
        #: Comes before what is installed.
        self.path = directory / "path"
        self.path.mkdir()
        self.write("mysite/__init__.py", "")
        self.write("mysite/urls.py", "urlpatterns = []\n")
        self.settings(GOOD)
        self.write("manage.py", MANAGE)

    def write(self, name, text):
        path = self.directory / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)

    def settings(self, text):
        self.write("mysite/settings.py", SETTINGS + text)

    def application(self, interface, text):
        """Write mysite/wsgi.py or mysite/asgi.py."""
        self.write(
            f"mysite/{interface}.py",
            "import os\n"
            "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'mysite.settings')\n"
            f"from django.core.{interface} import get_{interface}_application\n{text}\n",
        )

    def line(self, text, name="mysite/settings.py"):
        """Where a text stands, as a finding names it."""
        (number,) = (
            number
            for number, line in enumerate((self.directory / name).read_text().splitlines(), 1)
            if text in line
        )
        return f"{name}:{number}"

    def run(self, *arguments, **environment):
        paths = [str(self.path), os.environ.get("PYTHONPATH", "")]
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SENTRY_", "DJANGO_"))
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=str(self.directory),
            env={**inherited, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def report(self, *arguments, **environment):
        """What `python -m vendored_integration` says for machines."""
        done = self.run("-m", "vendored_integration", "--json", *arguments, **environment)
        assert "Traceback" not in done.stderr, done.stderr
        found = json.loads(done.stdout)
        assert done.returncode == (0 if found["ok"] else 1)
        assert found["ok"] == (not found["problems"])
        return found

    def findings(self, *arguments):
        """Number -> finding, of the report."""
        found = self.report(*(arguments or ["--settings", "mysite.settings"]))["findings"]
        return {finding["id"].rpartition(".")[2]: finding for finding in found}

    def check(self, *arguments):
        """The numbers that `manage.py check` names, and its output."""
        done = self.run("manage.py", "check", *arguments)
        output = done.stdout + done.stderr
        assert "Traceback" not in output, output
        return sorted(set(re.findall(r"\(vendored_integration\.(\w+)\)", output))), output

    def check_application(self, application, number, name):
        """This is found of it; of the settings' application, in a process that has imported it."""
        found = self.findings(application)
        assert list(found) == [number]
        assert found[number]["where"] == application
        assert name in found[number]["message"]
        assert self.findings() == {}
        code = (
            f"import {application.split(':')[0]}; from vendored_integration import checks; "
            "print([finding.id[-4:] for finding in checks.findings()])"
        )
        assert self.run("-c", code).stdout == f"['{number}']\n"

    def copy(self, module):
        """Put a copy of an installed package before the installed one, and return it."""
        source = Path(module.__file__).parent
        target = self.path / source.name
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        return target


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_nothing_is_wrong(project):
    """And the options in force are told, for machines and for people."""
    project.settings(
        OURS + "OPTIONS['traces_sample_rate'] = 0.25\nsentry_sdk.init(**OPTIONS,\n"
        "    integrations=[DjangoIntegration(response_timeout=7, max_open_responses=9)])\n"
    )
    found = project.report("--settings", "mysite.settings")
    assert (found["ok"], found["findings"]) == (True, [])
    process = found["process"]
    by_environment = project.report(DJANGO_SETTINGS_MODULE="mysite.settings")["process"]
    assert by_environment["options"] == process["options"]
    expected = {
        "settings": "mysite.settings",
        "integration": "vendored_integration",
        "traces_sample_rate": 0.25,
        "trace_lifecycle": LIFECYCLES[0],
    }
    assert expected.items() <= process.items()
    assert {"response_timeout": 7, "max_open_responses": 9}.items() <= process["options"].items()
    assert [re.sub(r"\d+$", "", place) for place in process["inits"]] == ["mysite/settings.py:"]
    done = project.run("-m", "vendored_integration", "--settings", "mysite.settings")
    lines = done.stdout.splitlines()
    assert (lines[-1], done.returncode) == ("ok", 0)
    assert "  integration: vendored_integration" in lines
    assert "    response_timeout: 7" in lines
    assert project.check()[0] == []


def test_text_without_a_project(project):
    """It says how to have one looked at."""
    done = project.run("-m", "vendored_integration")
    hint, last = done.stdout.splitlines()[-2:]
    assert last == "ok"
    assert "next: python -m vendored_integration --settings mysite.settings" in hint


def test_text_of_a_problem(project):
    """One line, the last one: what, where, what to change, and the id."""
    project.settings(
        OURS + "sentry_sdk.init(DSN)  # first\n"
        "sentry_sdk.init(DSN, integrations=[DjangoIntegration()])\n"
    )
    done = project.run("-m", "vendored_integration", "--settings", "mysite.settings")
    info, last = done.stdout.splitlines()[-2:]
    assert info.startswith("info: tracing is off")
    assert info.endswith("(vendored_integration.I001)")
    assert last.startswith("problem: an earlier sentry_sdk.init()")
    assert f"next: {project.line('# first')}: the first sentry_sdk.init() of the process" in last
    assert last.endswith("(vendored_integration.E004)")
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("settings", "number", "shown"),
    [
        (OURS + "sentry_sdk.init(DSN, traces_sample_rate=1.0)  # here\n" + GOOD, "E004", True),
        (BOTH % "DjangoIntegration(), Stock()", "E005", True),
        (OURS + "sentry_sdk.init(DSN, traces_sample_rate=1.0)  # here\n", "E006", True),
        # Nothing of ours is imported: Django does not know of us.
        (STOCK + "sentry_sdk.init(**OPTIONS, integrations=[Stock()])  # here\n", "E006", False),
        (OURS + "sentry_sdk.init(**OPTIONS)  # here\n", "E007", True),
        (BOTH % "Stock(), DjangoIntegration()", "W001", True),
        (
            STOCK + GOOD + "sentry_sdk.init(**OPTIONS, integrations=[Stock()])  # here\n",
            "W002",
            True,
        ),
        # Where only production is monitored.
        (OURS, "W006", False),
        (GOOD.replace("**OPTIONS", "DSN").replace("first", "here"), "I001", False),
        ("OPTIONS['dsn'] = None\n" + GOOD.replace("first", "here"), "I002", False),
        pytest.param(
            "OPTIONS['_experiments'] = {'trace_lifecycle': 'stream'}\n"
            + OURS
            + "sentry_sdk.init(**OPTIONS, "
            + "integrations=[DjangoIntegration(on_timeout='continue')])  # here\n",
            "I003",
            False,
            marks=pytest.mark.skipif(not HAS_STREAM_LIFECYCLE, reason="no stream lifecycle"),
        ),
    ],
)
def test_integration_and_options(project, settings, number, shown):
    """Which integration is set up: each finding names the line to change.

    `shown`: Django's system checks show it.
    """
    project.settings(settings)
    (finding,) = project.findings().items()
    where = project.line("# here") if "# here" in settings else ""
    assert (finding[0], finding[1]["where"]) == (number, where)
    numbers, output = project.check()
    assert numbers == ([number] if shown else [])
    assert ("HINT: " in output) == shown


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_initialised_by_the_application(project, interface):
    """Then that has to be loaded, as the server does."""
    project.settings("")
    project.application(
        interface,
        "import sentry_sdk\nfrom mysite.settings import OPTIONS\n"
        f"{GOOD}application = get_{interface}_application()",
    )
    assert list(project.findings()) == ["W006"]
    found = project.report(f"mysite.{interface}")
    assert found["findings"] == []
    assert found["process"]["application"] == f"mysite.{interface}:application"
    assert found["process"]["inits"] == [project.line("# first", f"mysite/{interface}.py")]


# -- the installation -------------------------------------------------------------------


def test_wrong_sdk(project):
    """The project cannot be loaded then, and what to install is said all the same."""
    copy = project.copy(sentry_sdk)
    consts = copy / "consts.py"
    consts.write_text(re.sub(r"(?m)^VERSION = .*", 'VERSION = "2.0.99"', consts.read_text()))
    (project.path / "sentry_sdk-2.0.99.dist-info").mkdir()
    (project.path / "sentry_sdk-2.0.99.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: sentry-sdk\nVersion: 2.0.99\n"
    )
    found = project.findings()
    assert list(found) == ["E001"]
    for arguments in ([], ["--settings", "mysite.settings"], ["mysite.wsgi"]):
        done = project.run("-m", "vendored_integration", *arguments)
        last = done.stdout.splitlines()[-1]
        assert last.startswith("problem: this build is for sentry-sdk ")
        assert '"vendored-integration==2.0.99.*"' in last
        assert (done.returncode, done.stderr) == (1, "")
    # The package itself cannot be imported.
    last = project.run("manage.py", "check").stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "but sentry-sdk 2.0.99 is installed" in last
    assert '"vendored-integration==2.0.99.*"' in last
    assert "SENTRY_SDK_VERSION=2.0.99 pip install ." in last


def test_changed_file(project):
    """One byte, one file more, one less."""
    copy = project.copy(vendored_integration) / "_vendor"
    with (copy / "wsgi.py").open("a") as file:
        file.write("#")
    (copy / "extra.py").touch()
    found = project.findings()
    assert list(found) == ["E003"]
    assert found["E003"]["message"].endswith("built: extra.py, wsgi.py")
    assert project.check()[0] == ["E003"]


# -- the server -------------------------------------------------------------------------


def test_uwsgi_without_threads(project):
    """A stand-in for the module that uWSGI has; the real one is in the live tests."""
    project.write("path/uwsgi.py", "opt = {'http-socket': b'127.0.0.1:0'}\n")
    project.settings("import uwsgi, warnings\nwarnings.simplefilter('ignore')\n" + GOOD)
    found = project.findings()
    assert list(found) == ["W003"]
    assert "--enable-threads" in found["W003"]["hint"]
    assert project.check()[0] == ["W003"]
    for option in "'enable-threads': True", "b'enable-threads': b'true'", "'threads': b'4'":
        project.write("path/uwsgi.py", f"opt = {{{option}}}\n")
        assert project.findings() == {}


MIDDLEWARE = """
from sentry_sdk.integrations.{0} import {1} as Stock
from vendored_integration.{0} import {2} as Ours
class Other:
    def __init__(self, app):
        self.application = app
    def __call__(self, *args):
        return self.application(*args)
django = get_{0}_application()
"""
NAMES = {
    "wsgi": ("SentryWsgiMiddleware", "SentryWsgiMiddleware"),
    "asgi": ("SentryAsgiMiddleware", "SentryMiddleware"),
}


@pytest.mark.parametrize("interface", NAMES)
def test_stock_around_the_application(project, interface):
    """Also where another middleware is around it, in turn; but not where ours is."""
    stock, ours = NAMES[interface]
    project.settings(f"{interface.upper()}_APPLICATION = 'mysite.{interface}.both'\n" + GOOD)
    project.application(
        interface,
        MIDDLEWARE.format(interface, stock, ours)
        + "both, good = Other(Stock(django)), Ours(Stock(django))",
    )
    project.check_application(f"mysite.{interface}:both", "W005", stock)
    assert project.findings(f"mysite.{interface}:good") == {}


STARLETTE = """
from starlette.applications import Starlette
from starlette.routing import Mount
inner = Starlette(routes=[Mount('/', app=django)])
both = Starlette(routes=[Mount('/inner', app=inner)])
"""
FASTAPI = "from fastapi import FastAPI\nboth = FastAPI()\nboth.mount('/shop', django)\n"


@pytest.mark.parametrize(("framework", "text"), [("Starlette", STARLETTE), ("FastAPI", FASTAPI)])
def test_django_is_mounted(project, framework, text):
    """The SDK's Starlette integration is around Django's application, too."""
    pytest.importorskip(framework.lower())
    setting = "ASGI_APPLICATION = 'mysite.asgi.both'\n"
    project.settings(
        f"{setting}{OURS}from sentry_sdk.integrations.starlette import StarletteIntegration\n"
        "sentry_sdk.init(**OPTIONS, integrations=[DjangoIntegration(), StarletteIntegration()])\n"
    )
    middleware = MIDDLEWARE.format("asgi", *NAMES["asgi"])
    project.application("asgi", f"{middleware}{text}good = Ours(both)")
    project.check_application("mysite.asgi:both", "W007", framework)
    assert project.findings("mysite.asgi:good") == {}
    # Without the SDK's integration nothing is around it.
    project.settings(setting + GOOD)
    assert project.findings("mysite.asgi:both") == {}


# -- what is said, and what happens then ------------------------------------------------


def test_nothing_stops_a_command(project):
    """Whatever is found: Django runs no command any more after an error."""
    project.settings(BOTH % "DjangoIntegration(), Stock()")
    assert project.run("manage.py", "migrate").returncode == 0
    assert project.run("manage.py", "check").returncode == 0
    done = project.run("manage.py", "check", "--fail-level", "WARNING", "--tag", "sentry")
    assert (done.returncode, "E005" in done.stderr) == (1, True)
    # Django's own setting silences it, in both places.
    project.settings(
        "SILENCED_SYSTEM_CHECKS = ['vendored_integration.E005']\n"
        + BOTH % "DjangoIntegration(), Stock()"
    )
    assert project.findings() == {}
    numbers, output = project.check()
    assert (numbers, "(1 silenced)" in output) == ([], True)


@pytest.mark.parametrize(
    ("settings", "arguments", "error", "where"),
    [
        ("import no_such_thing\n", [], "ModuleNotFoundError: No module named", "no_such_thing"),
        ("raise SystemExit('no')  # it\n", [], "SystemExit: no", "# it"),
        ("one two\n", [], "SyntaxError: invalid syntax", "one two"),
        ("INSTALLED_APPS = ['no_such_app']\n", [], "No module named 'no_such_app'", None),
        (
            "import os, sys\nsys.path.append(os.path.abspath('env/site-packages'))\n"
            "import broken_library  # here\n",
            [],
            "ZeroDivisionError",
            "# here",
        ),
        ("", ["--settings", "mysite.seting"], "No module named 'mysite.seting'", None),
        ("", ["mysite.urls"], "has no attribute 'application'", None),
    ],
)
def test_project_that_cannot_be_loaded(project, settings, arguments, error, where):
    """The line that raises is named, if it is the project's."""
    project.settings(settings)
    project.write("env/site-packages/broken_library.py", "1 / 0")
    (finding,) = project.findings(*arguments).values()
    assert finding["id"] == "vendored_integration.E008"
    assert error in finding["message"]
    assert finding["where"] == (project.line(where) if where else "")


def test_project_with_the_package_in_it(project):
    """As a checkout is: its own line is not the one to change."""
    project.copy(vendored_integration)
    project.settings("INSTALLED_APPS = ['no_such_app']\n")
    assert project.findings()["E008"]["where"] == ""


def test_settings_that_print(project):
    """It does not get into the JSON. The package is imported without its first lines there,
    which settings must not notice.
    """
    project.settings("from vendored_integration import __version__\nprint(__version__)\n" + GOOD)
    assert project.report("--settings", "mysite.settings")["ok"]


def test_findings_in_this_process(init):
    """The same for a health view; the tests' conftest sets up what is right."""
    init()
    assert checks.findings() == []
    init(traces_sample_rate=None)
    (finding,) = checks.findings()
    assert finding.id == "vendored_integration.I001"
    assert finding.advice == finding.hint


@pytest.mark.skipif(not DOCS.exists(), reason="not in a checkout")
def test_documentation():
    """The table has each finding, with its level."""
    rows = re.findall(r"(?m)^\| `([EWI]\d{3})` \| (\w+) \|", DOCS.read_text())
    levels = {"E": "error", "W": "warning", "I": "info"}
    assert rows == [(number, levels[number[0]]) for number in _findings.CATALOGUE]
