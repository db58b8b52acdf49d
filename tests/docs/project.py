"""A Django project made of a page's Python blocks, and run in a process of its own.

A block that begins with a path (``# shop/views.py``) is that file of the project; settings are
added to what every project needs. Blocks without a path are run one after the other, once Django
is set up. ``dsn="..."`` stands for the test's own ingest.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, Sequence

from pages import Block

from sink import EnvelopeSink

#: What a block begins with that is a file of the project.
PATH = re.compile(r"# (shop/[\w/]+\.py)\n")

FILES = {
    "shop/__init__.py": "",
    "shop/views.py": "",
    "shop/management/__init__.py": "",
    "shop/management/commands/__init__.py": "",
    "shop/models.py": """\
from django.db import models


class Order(models.Model):
    number = models.IntegerField()
    cents = models.IntegerField()
""",
    # Every view that a page shows, under its own name.
    "shop/urls.py": """\
import inspect
from django.urls import path
from shop import views

urlpatterns = [
    path(name, view)
    for name, view in inspect.getmembers(views, inspect.isfunction)
    if view.__module__ == "shop.views" and [*inspect.signature(view).parameters] == ["request"]
]
""",
    "shop/settings.py": """\
ALLOWED_HOSTS = ["*"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "shop"]
MIDDLEWARE = []
ROOT_URLCONF = "shop.urls"
SECRET_KEY = "shop"
USE_TZ = True
""",
}
INIT = """\
import sentry_sdk
from vendored_integration import DjangoIntegration

sentry_sdk.init(dsn="...", traces_sample_rate=1.0, integrations=[DjangoIntegration()])
"""
# The page's snippets run between these two.
BEFORE = """\
import asyncio, importlib, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
import django; django.setup()
from django.core.asgi import get_asgi_application
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from shop.models import Order
call_command("migrate", run_syncdb=True, verbosity=0)
Order.objects.bulk_create(Order(number=number, cents=100 * number) for number in (1, 2, 3))
wsgi, asgi = get_wsgi_application(), get_asgi_application()
snippets = {"app": wsgi}
"""
AFTER = """\
import sentry_sdk
from asgiref.testing import ApplicationCommunicator
from django.test import AsyncRequestFactory, RequestFactory

def call(application, path, chunks=sys.maxsize, **environ):
    "What a WSGI server does for a request; it hangs up after so many chunks."
    status = []
    environ = RequestFactory().get(path, **environ).environ
    response = application(environ, lambda line, *rest: status.append(line))
    try:
        body = b"".join(chunk for _, chunk in zip(range(chunks), response))
    finally:
        getattr(response, "close", lambda: None)()
    return status[0], body.decode()

async def acall(application, path):
    "What an ASGI server does for a request."
    server = ApplicationCommunicator(application, AsyncRequestFactory().get(path).scope)
    await server.send_input({"type": "http.request", "body": b"", "more_body": False})
    status = (await server.receive_output(10))["status"]
    body, more = b"", True
    while more:
        message = await server.receive_output(10)
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await server.wait(10)
    return status, body.decode()

get = lambda path, **how: call(wsgi, path, **how)
aget = lambda application, path: asyncio.run(acall(application, path))

def get_all():
    for pattern in django.urls.get_resolver().url_patterns:
        status, body = get(f"/{pattern.pattern}?n=2&until=1")
        assert status == "200 OK", (status, body)

"""


class Project:
    """The project of a page, in a directory; what it sends goes to the sink."""

    def __init__(self, directory: Path, blocks: Sequence[Block], sink: EnvelopeSink) -> None:
        self.directory = directory
        files: Dict[str, str] = {}
        self._snippets = ""
        for block in blocks:
            text = block.text.replace('dsn="..."', f'dsn="{sink.dsn}"')
            found = PATH.match(text)
            if found:
                files[found[1]] = files.get(found[1], "") + text
            else:
                self._snippets += f"exec(compile({text!r}, {str(block)!r}, 'exec'), snippets)\n"
        settings = files.get("shop/settings.py", "")
        if "sentry_sdk.init(" not in settings:
            settings += INIT.replace('dsn="..."', f'dsn="{sink.dsn}"')
        self._modules = sorted(name[:-3].replace("/", ".") for name in files)
        files = {**FILES, **files, "shop/settings.py": FILES["shop/settings.py"] + settings}
        for name, text in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def run(self, then: str = "get_all()") -> str:
        """Run all of it, and then what the test wants; return what it prints.

        `then` can use get(path), aget(application, path), get_all(), `wsgi`, `asgi`, and in
        `snippets` what the page's snippets have defined.
        """
        imports = "".join(f"importlib.import_module({name!r})\n" for name in self._modules)
        script = f"{BEFORE}{imports}{self._snippets}{AFTER}{then}\nsentry_sdk.flush(timeout=10)\n"
        (self.directory / "run_page.py").write_text(script, encoding="utf-8")
        result = subprocess.run(
            [sys.executable, "-W", "error", "run_page.py"],
            cwd=str(self.directory),
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr
