"""What a build carries: as data, as an SBOM, and as `python -m vendored_integration` says."""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, Optional

import pytest
import sdk
from conftest import CHECKOUT, Project, files_of, run
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

VENDOR = "vendored_integration/_vendor"
PACKAGE = [
    "__init__.py",
    "__main__.py",
    "_findings.py",
    "_provenance.py",
    "_release.py",
    "checks.py",
]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_statement_names_each_thing_and_its_hash(project: Project) -> None:
    """Also of a release that an earlier directory serves: its own wheel, that one's patches."""
    project.release("2.9.5", sdk.FILES)
    project.vendor("port", "2.9.5")
    project.vendor("build", "2.9.5")
    stated = json.loads(project.vendored("provenance.json"))
    wheel = next(project.wheels.glob("*-2.9.5-*"))
    assert stated["package"]["version"] == "2.9.5.1"
    assert stated["upstream"] == {
        "name": "sentry-sdk",
        "version": "2.9.5",
        "wheel": wheel.name,
        "sha256": sha256(wheel.read_bytes()),
        "license": "MIT",
        "license_sha256": sha256(sdk.LICENSE.encode()),
    }
    assert stated["directory"] == "patches/2.9.0"
    assert stated["patches"] == [
        {"name": path.name, "sha256": sha256(path.read_bytes())}
        for path in sorted(project.path("patches/2.9.0").glob("*.patch"))
    ]
    files = stated["files"]
    upstream = {name: hashes["upstream"] for name, hashes in files.items() if "upstream" in hashes}
    assert upstream == {name: sha256(text.encode()) for name, text in sdk.FILES.items()}
    root = project.path(VENDOR)
    assert {name: hashes["vendored"] for name, hashes in files.items()} == {
        path.relative_to(root).as_posix(): sha256(path.read_bytes()) for path in root.rglob("*.py")
    }


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_sbom_is_valid_and_says_the_same(project: Project, kind: str, tmp_path: Path) -> None:
    files = files_of(project.build(tmp_path / "out", "9.1.0", kind))
    text = files["vendored_integration-9.1.0.1.dist-info/sboms/vendored-integration.cdx.json"]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    project.vendor("build", "9.1.0")
    stated = json.loads(project.vendored("provenance.json"))
    sbom = json.loads(text)
    assert not {"timestamp", "serialNumber"} & {*sbom, *sbom["metadata"]}
    main = sbom["metadata"]["component"]
    assert main["purl"] == "pkg:pypi/vendored-integration@9.1.0.1"
    [vendored] = sbom["components"]
    assert vendored["purl"] == "pkg:pypi/sentry-sdk@9.1.0"
    assert vendored["licenses"] == main["licenses"] == [{"license": {"id": "MIT"}}]
    [ancestor] = vendored["pedigree"]["ancestors"]
    assert ancestor["purl"] == vendored["purl"]
    assert ancestor["hashes"] == [{"alg": "SHA-256", "content": stated["upstream"]["sha256"]}]
    patches = [one["diff"]["text"]["content"] for one in vendored["pedigree"]["patches"]]
    assert patches == [project.text(f"patches/9.1.0/{one['name']}") for one in stated["patches"]]


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
    env = {"PYTHONPATH": str(project.site(installed))} if installed else {}
    # -S: nothing else is installed
    command = [sys.executable, "-W", "error", "-S", "-m", "vendored_integration", *args]
    return project.run(*command, status=status, **env)


def found(project: Project, **kwargs: Any) -> Dict[str, Any]:
    result: Dict[str, Any] = json.loads(report(project, "--json", **kwargs))
    return result


def test_report(package: Project) -> None:
    lines = report(package).splitlines()
    assert lines[-1] == "ok"
    assert "  vendored-integration: 9.1.0.1" in lines
    assert "  Django: none" in lines
    stated = json.loads(package.vendored("provenance.json"))
    assert f"    sha256: {stated['upstream']['sha256']}" in lines
    for hashes in stated["files"].values():
        assert f"      vendored: {hashes['vendored']}" in lines
    machines = found(package)
    assert (machines["ok"], machines["problems"], machines["differences"]) == (True, [], {})
    assert machines["provenance"] == stated
    assert machines["installed"] == {
        "vendored-integration": "9.1.0.1",
        "sentry-sdk": "9.1.0",
        "Django": None,
        "Python": ".".join(map(str, sys.version_info[:3])),
    }


@pytest.mark.parametrize("installed", ["2.9.0", ""])
def test_report_with_another_sdk_or_none(package: Project, installed: str) -> None:
    """Importing the package is refused then; saying so must not be."""
    last = report(package, installed=installed, status=1).splitlines()[-1]
    what = f"sentry-sdk {installed}" if installed else "no sentry-sdk"
    assert last.startswith(f"problem: this build is for sentry-sdk 9.1.0, but {what} is installed")
    assert '"sentry-sdk==9.1.0"' in last
    machines = found(package, installed=installed, status=1)
    assert (machines["ok"], machines["differences"]) == (False, {})


@pytest.mark.parametrize("importer", ["run", "__main__"])
def test_only_the_report_gets_in(package: Project, importer: str) -> None:
    """Not another package that `python -m` runs, which imports this one."""
    package.write("sentry_sdk/consts.py", 'VERSION = "2.9.0"\n')
    package.write("sentry_sdk/__init__.py", "")
    for name in "__init__", importer:
        package.write("application/__init__.py", "")
        package.write(f"application/{importer}.py", "")
        where = "application" if importer == "__main__" else f"application.{importer}"
        package.run(sys.executable, "-m", where)
        package.write(f"application/{name}.py", "import vendored_integration\n")
        command = [sys.executable, "-m", where]
        output = run(package.root, *command, status=1, env=package.env)
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
    differences = found(package, status=1)["differences"]
    assert sorted(differences) == ["django/extra.py", "django/tasks.py", "wsgi.py"]


@pytest.mark.parametrize(
    ("text", "word"),
    [(None, "missing"), ("{", "damaged"), ("[]", "damaged"), ('{"format": 9}', "format 1")],
)
def test_report_without_a_statement(package: Project, text: Optional[str], word: str) -> None:
    if text is None:
        shutil.rmtree(package.path(VENDOR))
    else:
        package.write(f"{VENDOR}/provenance.json", text)
    last = report(package, status=1).splitlines()[-1]
    assert last.startswith("problem: vendored_integration/_vendor/provenance.json: ")
    assert word in last
    assert found(package, status=1)["provenance"] is None
