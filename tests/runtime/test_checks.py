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
from harness import HAS_STREAM_LIFECYCLE

import vendored_integration
from vendored_integration import checks

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
OURS = "from vendored_integration import DjangoIntegration\n"
STOCK = "from sentry_sdk.integrations.django import DjangoIntegration as Stock\n"
GOOD = OURS + "sentry_sdk.init(**OPTIONS, integrations=[DjangoIntegration()])  # first\n"
#: Two integrations, and the stock one wins.
BOTH = OURS + STOCK + "sentry_sdk.init(**OPTIONS, integrations=[DjangoIntegration(), Stock()])\n"


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
        self.write(
            "manage.py",
            "import os, sys\n"
            "os.environ['DJANGO_SETTINGS_MODULE'] = 'mysite.settings'\n"
            "from django.core.management import execute_from_command_line\n"
            "execute_from_command_line(sys.argv)\n",
        )

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
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
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

    def copy(self, module, name=None):
        """Put a copy of an installed package before the installed one, and return it."""
        source = Path(module.__file__).parent
        target = self.path / source.name
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        return target


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_nothing_is_wrong(project):
    """And the options in force are told, by both names of the project."""
    project.settings(
        OURS + "OPTIONS['traces_sample_rate'] = 0.25\nsentry_sdk.init(**OPTIONS,\n"
        "    integrations=[DjangoIntegration(response_timeout=7, on_timeout='continue')])\n"
    )
    found = project.report("--settings", "mysite.settings")
    assert (found["ok"], found["findings"]) == (True, [])
    assert found == {
        **project.report(DJANGO_SETTINGS_MODULE="mysite.settings"),
        "process": found["process"],
    }
    process = found["process"]
    assert process["settings"] == "mysite.settings"
    assert process["integration"] == "vendored_integration"
    assert process["options"] == {
        "response_timeout": 7,
        "max_open_responses": 10_000,
        "finish_on": "return",
        "on_timeout": "continue",
    }
    assert (process["traces_sample_rate"], process["trace_lifecycle"]) == (0.25, "static")
    assert [re.sub(r"\d+$", "", place) for place in process["inits"]] == ["mysite/settings.py:"]
    assert process["stats"]["open_responses"] == 0
    assert project.check()[0] == []


def test_text(project):
    """The last line is `ok`; what a machine is told is there for people, too."""
    done = project.run("-m", "vendored_integration", "--settings", "mysite.settings")
    lines = done.stdout.splitlines()
    assert lines[-1] == "ok"
    assert f"  inits               {project.line('# first')}" in lines
    assert "  integration         vendored_integration" in lines
    assert any("finish_on='return'" in line for line in lines)
    assert done.returncode == 0


def test_text_without_a_project(project):
    """It says how to have one looked at."""
    done = project.run("-m", "vendored_integration")
    lines = done.stdout.splitlines()
    assert lines[-1] == "ok"
    assert "next: python -m vendored_integration --settings mysite.settings" in done.stdout


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


# -- which integration is set up --------------------------------------------------------


def test_stock_first(project):
    """The line is that of the init() that has enabled the stock integration."""
    project.settings(OURS + "sentry_sdk.init(DSN, traces_sample_rate=1.0)  # stock\n" + GOOD)
    found = project.findings()
    assert list(found) == ["E004"]
    assert found["E004"]["where"] == project.line("# stock")
    numbers, output = project.check()
    assert numbers == ["E004"]
    assert "HINT: the first sentry_sdk.init() of the process needs" in output


@pytest.mark.parametrize(
    ("integrations", "number"),
    [
        ("[DjangoIntegration(), Stock()]", "E005"),
        ("[Stock(), DjangoIntegration()]", "W001"),
    ],
)
def test_both(project, integrations, number):
    """The SDK takes the last one; the line is that of ours, which is known everywhere."""
    project.settings(
        OURS + STOCK + f"sentry_sdk.init(**OPTIONS,\n    integrations={integrations})\n"
    )
    found = project.findings()
    assert list(found) == [number]
    assert found[number]["where"] == project.line("integrations=")
    numbers, output = project.check()
    assert numbers == [number]
    assert f"HINT: {project.line('integrations=')}: remove" in output


def test_ours_not_passed(project):
    """The import is not enough."""
    project.settings(OURS + "sentry_sdk.init(DSN, traces_sample_rate=1.0)  # stock\n")
    found = project.findings()
    assert list(found) == ["E006"]
    assert found["E006"]["where"] == project.line("# stock")
    assert project.check()[0] == ["E006"]


def test_stock_passed(project):
    """Nothing of ours is imported: `manage.py check` does not know of us."""
    project.settings(STOCK + "sentry_sdk.init(**OPTIONS, integrations=[Stock()])\n")
    found = project.findings()
    assert list(found) == ["E006"]
    assert "instead of the DjangoIntegration of sentry_sdk" in found["E006"]["hint"]
    assert project.check()[0] == []


def test_no_integration(project):
    project.settings(OURS + "sentry_sdk.init(**OPTIONS)\n")
    assert list(project.findings()) == ["E007"]
    assert project.check()[0] == ["E007"]


def test_later_init_without_ours(project):
    """Django is still ours, but the options are the defaults."""
    good = GOOD.replace("DjangoIntegration()", "DjangoIntegration(response_timeout=7)")
    later = "sentry_sdk.init(**OPTIONS, integrations=[Stock()])  # later\n"
    project.settings(STOCK + good + later)
    found = project.report("--settings", "mysite.settings")
    (finding,) = found["findings"]
    assert finding["id"] == "vendored_integration.W002"
    assert finding["where"] == project.line("# later")
    assert found["process"]["options"]["response_timeout"] == 300
    assert project.check()[0] == ["W002"]


def test_not_initialised(project):
    """The report says so; `manage.py check` does not, where only production is monitored."""
    project.settings(OURS)
    assert list(project.findings()) == ["W006"]
    assert project.check()[0] == []


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
    assert found["process"]["interface"] == interface
    assert found["process"]["inits"] == [project.line("# first", f"mysite/{interface}.py")]


def test_infos(project):
    """They are no problem, and `manage.py check` does not show them."""
    project.settings(
        OURS + "OPTIONS.update(dsn=None, traces_sample_rate=None)\n"
        "sentry_sdk.init(**OPTIONS, integrations=[DjangoIntegration()])\n"
    )
    assert list(project.findings()) == ["I001", "I002"]
    assert project.check()[0] == []


@pytest.mark.skipif(not HAS_STREAM_LIFECYCLE, reason="no stream lifecycle")
def test_parts_in_the_stream_lifecycle(project):
    project.settings(
        "OPTIONS['_experiments'] = {'trace_lifecycle': 'stream'}\n"
        + GOOD.replace("DjangoIntegration()", "DjangoIntegration(on_timeout='continue')")
    )
    found = project.report("--settings", "mysite.settings")
    assert [finding["id"] for finding in found["findings"]] == ["vendored_integration.I003"]
    assert found["process"]["trace_lifecycle"] == "stream"


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
    done = project.run("manage.py", "check")
    last = done.stderr.strip().splitlines()[-1]
    assert '"vendored-integration==2.0.99.*"' in last


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


def test_no_statement(project):
    copy = project.copy(vendored_integration) / "_vendor"
    (copy / "provenance.json").unlink()
    assert list(project.findings()) == ["E002"]
    assert project.check()[0] == ["E002"]


# -- the server -------------------------------------------------------------------------


def test_uwsgi_without_threads(project):
    """A stand-in for the module that uWSGI has; the real one is in the live tests."""
    project.write("path/uwsgi.py", "opt = {'http-socket': b'127.0.0.1:0'}\n")
    project.settings("import uwsgi, warnings\nwarnings.simplefilter('ignore')\n" + GOOD)
    found = project.findings()
    assert list(found) == ["W003"]
    assert "--enable-threads" in found["W003"]["hint"]
    assert project.check()[0] == ["W003"]
    project.write("path/uwsgi.py", "opt = {'enable-threads': True}\n")
    assert project.findings() == {}


def test_old_gevent(project):
    """One that patches threads and leaves context variables alone."""
    project.write("path/gevent/__init__.py", "__version__ = '1.4.0'\n")
    project.write(
        "path/gevent/monkey.py",
        "def is_object_patched(module, name):\n    return module == 'threading'\n"
        "def is_module_patched(module):\n    return module == 'threading'\n",
    )
    assert list(project.findings()) == ["W004"]
    assert project.check()[0] == ["W004"]


@pytest.mark.parametrize(
    ("interface", "kind"), [("wsgi", "SentryWsgiMiddleware"), ("asgi", "SentryAsgiMiddleware")]
)
def test_stock_around_the_application(project, interface, kind):
    """Also where another middleware is around it, in turn."""
    project.application(
        interface,
        f"from sentry_sdk.integrations.{interface} import {kind}\n"
        "class Middleware:\n"
        "    def __init__(self, app):\n"
        "        self.application = app\n"
        "    def __call__(self, *args):\n"
        "        return self.application(*args)\n"
        f"application = Middleware({kind}(get_{interface}_application()))\n",
    )
    found = project.findings(f"mysite.{interface}:application")
    assert list(found) == ["W005"]
    assert found["W005"]["where"] == f"mysite.{interface}:application"
    assert kind in found["W005"]["message"]
    # The settings' application, in a process where it has been imported.
    setting = f"{interface.upper()}_APPLICATION = 'mysite.{interface}.application'\n"
    project.settings(setting + GOOD)
    assert project.findings() == {}
    code = (
        f"import mysite.{interface}; from vendored_integration import checks; "
        "print([finding.id[-4:] for finding in checks.findings()])"
    )
    assert project.run("-c", code).stdout == "['W005']\n"


@pytest.mark.parametrize(
    ("interface", "ours"),
    [
        ("wsgi", "from vendored_integration.wsgi import SentryWsgiMiddleware as Middleware"),
        ("asgi", "from vendored_integration.asgi import SentryMiddleware as Middleware"),
    ],
)
def test_ours_around_the_application(project, interface, ours):
    """And nothing of a stock one within."""
    stock = {"wsgi": "SentryWsgiMiddleware", "asgi": "SentryAsgiMiddleware"}[interface]
    project.application(
        interface,
        f"{ours}\nfrom sentry_sdk.integrations.{interface} import {stock} as Stock\n"
        f"application = Middleware(Stock(get_{interface}_application()))\n",
    )
    found = project.report(f"mysite.{interface}")
    assert found["findings"] == []
    assert found["process"]["interface"] == interface


WITH_STARLETTE = (
    f"{OURS}from sentry_sdk.integrations.starlette import StarletteIntegration\n"
    "sentry_sdk.init(**OPTIONS, integrations=[DjangoIntegration(), StarletteIntegration()])\n"
)
MOUNTED = {
    "Starlette": (
        "from starlette.applications import Starlette\n"
        "from starlette.routing import Mount\n"
        "inner = Starlette(routes=[Mount('/', app=django)])\n"
        "app = Starlette(routes=[Mount('/inner', app=inner)])\n"
    ),
    "FastAPI": "from fastapi import FastAPI\napp = FastAPI()\napp.mount('/shop', django)\n",
}


@pytest.mark.parametrize("framework", MOUNTED)
def test_django_is_mounted(project, framework):
    """The SDK's Starlette integration is around Django's application, too."""
    pytest.importorskip(framework.lower())
    project.settings("ASGI_APPLICATION = 'mysite.asgi.app'\n" + WITH_STARLETTE)
    ours = "from vendored_integration.asgi import SentryMiddleware\n"
    project.application(
        "asgi",
        f"django = get_asgi_application()\n{MOUNTED[framework]}"
        f"{ours}application = SentryMiddleware(app)\n",
    )
    found = project.findings("mysite.asgi:app")
    assert list(found) == ["W007"]
    assert found["W007"]["where"] == "mysite.asgi:app"
    assert framework in found["W007"]["message"]
    # The settings' application, in a process where it has been imported.
    code = (
        "import mysite.asgi; from vendored_integration import checks; "
        "print([finding.id[-4:] for finding in checks.findings()])"
    )
    assert project.run("-c", code).stdout == "['W007']\n"
    assert project.findings("mysite.asgi:application") == {}
    # Without the SDK's integration nothing is around it.
    project.settings(GOOD)
    assert project.findings("mysite.asgi:app") == {}


def test_nothing_of_django_is_mounted(project):
    """Starlette's own routes are Starlette's: whether somebody wants more is not known."""
    pytest.importorskip("starlette")
    project.settings(WITH_STARLETTE)
    beside = (
        "get_asgi_application()\nfrom starlette.responses import Response\ndjango = Response()\n"
    )
    project.application("asgi", beside + MOUNTED["Starlette"])
    assert project.findings("mysite.asgi:app") == {}


# -- what is said, and what happens then ------------------------------------------------


def test_nothing_stops_a_command(project):
    """Whatever is found: Django runs no command any more after an error."""
    project.settings(BOTH)
    assert project.run("manage.py", "migrate").returncode == 0
    assert project.run("manage.py", "check").returncode == 0
    assert project.run("manage.py", "check", "--fail-level", "WARNING").returncode == 1
    done = project.run("manage.py", "check", "--fail-level", "WARNING", "--tag", "sentry")
    assert (done.returncode, "E005" in done.stderr) == (1, True)


def test_silenced(project):
    """By Django's own setting, in both places."""
    project.settings("SILENCED_SYSTEM_CHECKS = ['vendored_integration.E005']\n" + BOTH)
    assert project.findings() == {}
    numbers, output = project.check()
    assert (numbers, "(1 silenced)" in output) == ([], True)


def test_fault_of_the_checks(project):
    """It is logged, and no command fails of it."""
    project.settings(
        "import vendored_integration._provenance\n"
        "vendored_integration._provenance.look = None\n" + GOOD
    )
    done = project.run("manage.py", "check")
    assert (done.returncode, "no issues" in done.stdout) == (0, True)
    assert "internal error while looking for what is wrong" in done.stderr


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
        ("", ["--settings", "another"], "No module named 'another'", None),
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
    assert ("give another name" in finding["hint"]) == (not settings)


def test_project_with_the_package_in_it(project):
    """As a checkout is: its own line is not the one to change."""
    project.copy(vendored_integration)
    project.settings("INSTALLED_APPS = ['no_such_app']\n")
    assert project.findings()["E008"]["where"] == ""


def test_what_settings_print(project):
    """It does not get into the JSON."""
    project.settings("print('hello')\n" + GOOD)
    assert project.report("--settings", "mysite.settings")["ok"]


def test_version_in_the_process_of_the_report(project):
    """There the package is imported without its first lines; settings must not notice."""
    project.settings("from vendored_integration import __version__, stats\nstats()\n" + GOOD)
    assert project.findings() == {}


def missing(name):
    raise checks.metadata.PackageNotFoundError(name)


def test_findings_in_this_process(init, monkeypatch):
    """The same for a health view; the tests' conftest sets up what is right."""
    init()
    assert checks.findings() == []
    with monkeypatch.context() as patch:
        # Bundles for AWS Lambda leave the distributions' metadata out.
        patch.setattr(checks.metadata, "version", missing)
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
    assert rows == [(number, levels[number[0]]) for number in checks.CATALOGUE]
