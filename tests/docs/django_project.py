"""A Django project made of a page's blocks, and run.

A Python block that begins with a path (``# shop/views.py``) is that file of the project;
settings are added to what every project needs. Blocks without a path are snippets, run one
after the other once Django is set up. ``dsn="..."`` stands for the test's own ingest.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Sequence

from pages import Block

from sink import EnvelopeSink

STAGE = Path(__file__).resolve().with_name("stage.py")

#: What a block begins with that is a file of the project.
PATH = re.compile(r"# (shop/[\w/]+\.py)\n")

SETTINGS = """\
ALLOWED_HOSTS = ["*"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "shop"]
MIDDLEWARE = []
ROOT_URLCONF = "shop.urls"
SECRET_KEY = "shop"
USE_TZ = True
"""

INIT = """\
import sentry_sdk
from vendored_integration import DjangoIntegration

sentry_sdk.init(dsn="...", traces_sample_rate=1.0, integrations=[DjangoIntegration()])
"""

MODELS = """\
from django.db import models


class Order(models.Model):
    number = models.IntegerField()
    cents = models.IntegerField()
"""

# Every view that a page shows, under its own name.
URLS = """\
import inspect
from django.urls import path
from shop import views

urlpatterns = [
    path(name, view)
    for name, view in inspect.getmembers(views, inspect.isfunction)
    if view.__module__ == "shop.views" and [*inspect.signature(view).parameters] == ["request"]
]
"""

HANDLER = """\
from django.core.{0} import get_{0}_application

application = get_{0}_application()
"""


class Project:
    """The project of a page, in a directory; what it sends goes to the sink."""

    def __init__(self, directory: Path, blocks: Sequence[Block], sink: EnvelopeSink) -> None:
        self.directory = directory
        self._snippets: List[Block] = []
        self._page_files: Dict[str, str] = {}
        settings = ""
        for block in blocks:
            found = PATH.match(block.text)
            if found is None:
                self._snippets.append(block)
            elif found[1] == "shop/settings.py":
                settings += block.text
            else:
                self._page_files[found[1]] = block.text
        if "sentry_sdk.init(" not in settings:
            settings += INIT
        self._dsn = f'dsn="{sink.dsn}"'
        files = {
            "shop/__init__.py": "",
            "shop/models.py": MODELS,
            "shop/views.py": "",
            "shop/urls.py": URLS,
            "shop/wsgi.py": HANDLER.format("wsgi"),
            "shop/asgi.py": HANDLER.format("asgi"),
            "shop/management/__init__.py": "",
            "shop/management/commands/__init__.py": "",
            **self._page_files,
            "shop/settings.py": SETTINGS + settings,
        }
        for name, text in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._with_dsn(text), encoding="utf-8")

    def _with_dsn(self, text: str) -> str:
        return text.replace('dsn="..."', self._dsn)

    def run(self, then: str = "") -> str:
        """Run all of it, and then what the test wants; return the output.

        `then` can use what the snippets have defined, and get(path), aget(path), get_all(),
        call(application, path), acall(application, path): see stage.py.
        """
        job = self.directory / "job.json"
        job.write_text(
            json.dumps(
                {
                    "modules": [
                        name[: -len(".py")].replace("/", ".") for name in sorted(self._page_files)
                    ],
                    "snippets": [
                        (block.page, block.line, self._with_dsn(block.text))
                        for block in self._snippets
                    ],
                    "then": then,
                }
            ),
            encoding="utf-8",
        )
        result = subprocess.run(
            [sys.executable, "-W", "error", str(STAGE), str(job)],
            cwd=str(self.directory),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=100,
        )
        assert result.returncode == 0, result.stderr
        self.log = result.stderr
        return result.stdout
