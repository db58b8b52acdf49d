"""What a build carries: as data, as an SBOM, and as `python -m vendored_integration` says."""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any, Dict

import pytest
import sdk
from conftest import CHECKOUT, Project
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from test_backend import hook, texts

VENDOR = "vendored_integration/_vendor"
PACKAGE = ["__init__.py", "__main__.py", "_provenance.py", "_release.py", "checks.py"]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def provenance(project: Project) -> Dict[str, Any]:
    content: Dict[str, Any] = json.loads(project.vendored("provenance.json"))
    return content


def test_statement_names_each_thing_and_its_hash(project: Project) -> None:
    project.vendor("build", "2.9.0")
    stated = provenance(project)
    wheel = next(project.wheels.glob("*-2.9.0-*"))
    assert stated["package"]["version"] == "2.9.0.1"
    assert stated["upstream"] == {
        "name": "sentry-sdk",
        "version": "2.9.0",
        "wheel": wheel.name,
        "sha256": sha256(wheel.read_bytes()),
        "license": "MIT",
        "license_sha256": sha256(sdk.LICENSE.encode()),
    }
    patches = {path.name: path for path in project.path("patches/2.9.0").glob("*.patch")}
    assert stated["directory"] == "patches/2.9.0"
    assert stated["patches"] == [
        {"name": name, "sha256": sha256(patches[name].read_bytes())} for name in sorted(patches)
    ]
    files = stated["files"]
    assert {name for name in files if "upstream" in files[name]} == set(sdk.FILES)
    for name, text in sdk.FILES.items():
        assert files[name]["upstream"] == sha256(text.encode())
    for name, hashes in files.items():
        assert hashes["vendored"] == sha256(project.path(f"{VENDOR}/{name}").read_bytes())
    present = {
        p.relative_to(project.path(VENDOR)).as_posix() for p in project.path(VENDOR).rglob("*.*")
    }
    assert present == {*files, "provenance.json"}


def test_release_that_an_earlier_directory_serves(project: Project) -> None:
    """Its own wheel, the directory's patches."""
    project.release("2.9.5", sdk.FILES)
    project.vendor("port", "2.9.5")
    project.vendor("build", "2.9.5")
    stated = provenance(project)
    assert stated["upstream"]["wheel"].startswith("sentry_sdk-2.9.5-")
    assert stated["directory"] == "patches/2.9.0"


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_sbom_is_valid_and_says_the_same(project: Project, kind: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    output = hook(project, f"build_{kind}", str(tmp_path / "out"), installed="9.1.0")
    files = texts(tmp_path / "out" / output.split()[-1])
    text = files["vendored_integration-9.1.0.1.dist-info/sboms/vendored-integration.cdx.json"]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None

    project.vendor("build", "9.1.0")
    stated = provenance(project)
    sbom = json.loads(text)
    assert not {"timestamp", "serialNumber"} & {*sbom, *sbom["metadata"]}
    main = sbom["metadata"]["component"]
    assert main["purl"] == "pkg:pypi/vendored-integration@9.1.0.1"
    [vendored] = sbom["components"]
    assert vendored["purl"] == "pkg:pypi/sentry-sdk@9.1.0"
    assert vendored["licenses"] == main["licenses"] == [{"license": {"id": "MIT"}}]
    assert {one["name"]: one["hashes"][0]["content"] for one in vendored["components"]} == {
        f"{VENDOR}/{name}": hashes["vendored"]
        for name, hashes in stated["files"].items()
        if "upstream" in hashes
    }
    [ancestor] = vendored["pedigree"]["ancestors"]
    assert ancestor["purl"] == vendored["purl"]
    assert ancestor["hashes"] == [{"alg": "SHA-256", "content": stated["upstream"]["sha256"]}]
    assert {one["name"]: one["hashes"][0]["content"] for one in ancestor["components"]} == {
        f"sentry_sdk/integrations/{name}": sha256(text.encode()) for name, text in sdk.LATER.items()
    }
    patches = {one["diff"]["url"]: one["diff"]["text"] for one in vendored["pedigree"]["patches"]}
    assert [url.rpartition("/")[2] for url in patches] == [one["name"] for one in stated["patches"]]
    for url, text in patches.items():
        assert text["content"] == project.text(url)


@pytest.fixture
def package(project: Project) -> Project:
    """The package's own first modules, and 9.1.0 vendored."""
    for name in PACKAGE:
        shutil.copy(
            CHECKOUT / "vendored_integration" / name, project.path("vendored_integration") / name
        )
    project.vendor("build", "9.1.0")
    return project


def report(project: Project, *args: str, installed: str = "9.1.0", status: int = 0) -> str:
    """The made-up SDK raises an error when it is imported, which need not be."""
    env = {}
    if installed:
        site = project.root.parent / f"site-{installed}"
        env["PYTHONPATH"] = str(sdk.install(site, installed, sdk.RELEASES[installed]))
    # -S: nothing else is installed
    command = [sys.executable, "-W", "error", "-S", "-m", "vendored_integration", *args]
    output = project.run(*command, status=status, **env)
    assert "Traceback" not in output
    return output


def test_report(package: Project) -> None:
    output = report(package)
    lines = output.splitlines()
    assert lines[-1] == "ok"
    assert "  vendored-integration: 9.1.0.1" in lines
    assert "  Django: none" in lines
    stated = provenance(package)
    assert f"    sha256: {stated['upstream']['sha256']}" in lines
    for hashes in stated["files"].values():
        assert f"      vendored: {hashes['vendored']}" in lines


def test_report_for_machines(package: Project) -> None:
    found = json.loads(report(package, "--json"))
    assert found["ok"] is True
    assert found["problems"] == []
    assert found["differences"] == {}
    assert found["provenance"] == provenance(package)
    assert found["installed"] == {
        "vendored-integration": "9.1.0.1",
        "sentry-sdk": "9.1.0",
        "Django": None,
        "Python": ".".join(map(str, sys.version_info[:3])),
    }


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        ("2.9.0", ["sentry-sdk 2.9.0 is installed", '"vendored-integration==2.9.0.*"']),
        ("", ["no sentry-sdk is installed"]),
    ],
)
def test_report_with_another_sdk(package: Project, installed: str, words: list) -> None:
    """Importing the package is refused then; saying so must not be."""
    output = report(package, installed=installed, status=1)
    last = output.splitlines()[-1]
    assert last.startswith("problem: this build is for sentry-sdk 9.1.0, but ")
    assert '"sentry-sdk==9.1.0"' in last
    assert all(word in last for word in words)
    found = json.loads(report(package, "--json", installed=installed, status=1))
    assert (found["ok"], found["differences"]) == (False, {})


@pytest.mark.parametrize("importer", ["run", "__main__"])
def test_only_the_report_gets_in(package: Project, importer: str) -> None:
    """Not another package that `python -m` runs, which imports this one."""
    package.write("sentry_sdk/consts.py", 'VERSION = "2.9.0"\n')
    package.write("sentry_sdk/__init__.py", "")
    package.write("application/__init__.py", "")
    package.write(f"application/{importer}.py", "")
    where = "application" if importer == "__main__" else f"application.{importer}"
    package.run(sys.executable, "-m", where)
    for name in ("application/__init__.py", f"application/{importer}.py"):
        package.write("application/__init__.py", "")
        package.write(name, "import vendored_integration\n")
        output = package.run(sys.executable, "-m", where, status=1)
        assert "ImportError: vendored-integration 9.1.0.1 was built for" in output


def test_report_names_each_file_that_differs(package: Project) -> None:
    """One byte is enough."""
    package.replace(f"{VENDOR}/wsgi.py", "@close_aware", "@closing")
    package.path(f"{VENDOR}/django/tasks.py").unlink()
    package.write(f"{VENDOR}/django/extra.py", "")
    package.write(f"{VENDOR}/__pycache__/wsgi.cpython-38.pyc", "")
    output = report(package, status=1)
    assert "  wsgi.py: expected " in output
    assert re.search("  django/tasks.py: expected .* found none", output)
    assert "  django/extra.py: expected no such file" in output
    last = output.splitlines()[-1]
    assert last.startswith("problem: 3 vendored files are not as they were built")
    assert "vendored-integration==9.1.0.1" in last
    found = json.loads(report(package, "--json", status=1))
    assert sorted(found["differences"]) == ["django/extra.py", "django/tasks.py", "wsgi.py"]


@pytest.mark.parametrize(
    ("text", "word"),
    [(None, "missing"), ("{", "damaged"), ("[]", "damaged"), ('{"format": 9}', "format 1")],
)
def test_report_without_a_statement(package: Project, text: str, word: str) -> None:
    path = package.path(f"{VENDOR}/provenance.json")
    path.unlink()
    if text is not None:
        path.write_text(text)
    last = report(package, status=1).splitlines()[-1]
    assert last.startswith("problem: vendored_integration/_vendor/provenance.json: ")
    assert word in last
    assert json.loads(report(package, "--json", status=1))["provenance"] is None


def test_report_of_a_package_that_is_not_built(package: Project) -> None:
    shutil.rmtree(package.path(VENDOR))
    assert "provenance.json: missing" in report(package, status=1)
