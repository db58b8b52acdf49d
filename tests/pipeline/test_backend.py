"""The build backend, called as a frontend calls it, with the made-up SDK installed.

Offline: the requirements that pip would fetch are those of the tests themselves.
"""

import email.message
import email.parser
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Dict

import pytest
import sdk
from conftest import Project

HOOK = "import sys, build_backend; print(getattr(build_backend, sys.argv[1])(*sys.argv[2:]))"


def hook(
    project: Project, name: str, *args: str, installed: str = "", status: int = 0, **env: str
) -> str:
    """Call a hook in a fresh process; `installed` is the SDK's release beside it."""
    path = [str(project.path("scripts"))]
    if installed:
        site = project.root.parent / f"site-{installed}"
        path.append(str(sdk.install(site, installed, sdk.RELEASES[installed])))
    command = [sys.executable, "-c", HOOK, name, *args]
    return project.run(*command, status=status, PYTHONPATH=os.pathsep.join(path), **env)


def build(project: Project, out: Path, installed: str, **env: str) -> Path:
    """Build a wheel and return its path."""
    out.mkdir(exist_ok=True)
    output = hook(project, "build_wheel", str(out), installed=installed, **env)
    return out / output.split()[-1]


def texts(wheel: Path) -> Dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def metadata(wheel: Path) -> email.message.Message:
    found = [text for name, text in texts(wheel).items() if name.endswith("/METADATA")]
    return email.parser.Parser().parsestr(found[0])


def refused(project: Project, name: str, *args: str, **kwargs: str) -> str:
    """Call a hook, which must fail, say so properly, and change nothing."""
    before = project.snapshot()
    output = hook(project, name, *args, status=1, **kwargs)
    assert output.startswith("error: "), output
    assert "Traceback" not in output
    after = project.snapshot()
    after.pop("LICENSE.sentry-sdk", None)
    assert after == before
    return output


@pytest.mark.parametrize("kind", ["wheel", "editable"])
@pytest.mark.parametrize(
    ("env", "release"), [({}, "9.1.0"), ({"SENTRY_SDK_VERSION": "2.9.0"}, "2.9.0")]
)
def test_frontend_is_asked_for_the_sdk(
    project: Project, kind: str, env: Dict[str, str], release: str
) -> None:
    output = hook(project, f"get_requires_for_build_{kind}", **env)
    assert output == f"['sentry-sdk=={release}']\n"


def test_sdist_needs_no_sdk(project: Project) -> None:
    assert hook(project, "get_requires_for_build_sdist") == "[]\n"


@pytest.mark.parametrize("version", ["2.9.1", "9.1.0a1", "junk"])
def test_variable_with_a_release_that_is_not_supported(project: Project, version: str) -> None:
    output = refused(project, "get_requires_for_build_wheel", SENTRY_SDK_VERSION=version)
    assert version in output
    assert "2.9.0, 9.1.0" in output


@pytest.mark.skipif(
    importlib.util.find_spec("sentry_sdk") is not None,
    reason="sentry-sdk is installed beside pytest and cannot be hidden",
)
@pytest.mark.parametrize("name", ["build_wheel", "build_editable"])
def test_no_sdk_beside_the_build(project: Project, name: str, tmp_path: Path) -> None:
    """As with pip's --no-build-isolation in an environment without it."""
    output = refused(project, name, str(tmp_path))
    assert "no sentry-sdk" in output
    assert "pip install sentry-sdk==9.1.0" in output


@pytest.mark.parametrize("name", ["build_wheel", "build_editable"])
def test_other_sdk_beside_the_build(project: Project, name: str, tmp_path: Path) -> None:
    output = refused(project, name, str(tmp_path), installed="2.9.0")
    assert "sentry-sdk 2.9.0" in output
    assert "pip install sentry-sdk==9.1.0" in output
    assert "SENTRY_SDK_VERSION=2.9.0" in output


@pytest.mark.parametrize(
    "name",
    ["sentry_sdk/integrations/wsgi.py", "sentry_sdk-9.1.0.dist-info/licenses/LICENSE"],
)
def test_tampered_file_of_the_installed_sdk(project: Project, name: str, tmp_path: Path) -> None:
    site = sdk.install(tmp_path / "site", "9.1.0", sdk.LATER)
    (site / name).write_bytes((site / name).read_bytes() + b"\n")
    path = os.pathsep.join([str(project.path("scripts")), str(site)])
    command = [sys.executable, "-c", HOOK, "build_wheel", str(tmp_path)]
    output = project.run(*command, status=1, PYTHONPATH=path)
    assert output.startswith("error: ")
    assert f"{Path(name).name}: expected" in output
    assert "--force-reinstall" in output
    assert not list(tmp_path.glob("*.whl"))


@pytest.mark.parametrize("kind", ["wheel", "editable"])
@pytest.mark.parametrize("at", [0, 0.5, 1])
@pytest.mark.parametrize(
    "name",
    [
        "patches/9.1.0/close-aware.patch",
        "patches/9.1.0/lock.json",
        "site-9.1.0/sentry_sdk/integrations/wsgi.py",
        "site-9.1.0/sentry_sdk/integrations/django/__init__.py",
        "site-9.1.0/sentry_sdk-9.1.0.dist-info/licenses/LICENSE",
    ],
)
def test_one_tampered_byte(
    project: Project, kind: str, at: float, name: str, tmp_path: Path
) -> None:
    """First, middle or last, of whatever the build reads: nothing is built."""
    site = sdk.install(project.root.parent / "site-9.1.0", "9.1.0", sdk.LATER)
    path = (project.root if name.startswith("patches") else site.parent) / name
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1
    path.write_bytes(data)
    env = {"PYTHONPATH": os.pathsep.join([str(project.path("scripts")), str(site)])}
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", HOOK, f"build_{kind}", str(tmp_path / "out")]
    output = project.run(*command, status=1, **env)
    # setuptools may have said what it was doing before
    error = output[output.rindex("error: ") :]
    assert "Traceback" not in output
    assert path.relative_to(path.parents[1]).as_posix() in error or f"{path.name}: " in error
    assert "next: " in error
    assert not list((tmp_path / "out").iterdir())
    assert not project.path("vendored_integration/_vendor").exists()


@pytest.mark.parametrize("name", ["wsgi.py", "django/asgi.py"])
def test_file_of_the_installed_sdk_that_is_gone(
    project: Project, name: str, tmp_path: Path
) -> None:
    site = sdk.install(tmp_path / "site", "9.1.0", sdk.LATER)
    (site / "sentry_sdk/integrations" / name).unlink()
    path = os.pathsep.join([str(project.path("scripts")), str(site)])
    command = [sys.executable, "-c", HOOK, "build_wheel", str(tmp_path)]
    output = project.run(*command, status=1, PYTHONPATH=path)
    assert output.startswith("error: ")
    assert name in output
    assert "--force-reinstall" in output


def test_metadata_pins_the_sdk(project: Project, tmp_path: Path) -> None:
    wheel = build(project, tmp_path / "out", "2.9.0", SENTRY_SDK_VERSION="2.9.0")
    assert wheel.name == "vendored_integration-2.9.0.1-py3-none-any.whl"
    message = metadata(wheel)
    assert message["Name"] == "vendored-integration"
    assert message["Version"] == "2.9.0.1"
    requires = [value.replace(" ", "") for value in message.get_all("Requires-Dist", [])]
    assert "sentry-sdk==2.9.0" in requires
    assert "packaging" in requires
    assert message["Requires-Python"] == ">=3.8"
    assert "Typing :: Typed" in message.get_all("Classifier", [])


def test_wheel_carries_both_licences(project: Project, tmp_path: Path) -> None:
    wheel = build(project, tmp_path / "out", "9.1.0")
    assert metadata(wheel).get_all("License-File") == ["LICENSE", "LICENSE.sentry-sdk"]
    licenses = {Path(name).name: text for name, text in texts(wheel).items() if "LICENSE" in name}
    assert licenses["LICENSE.sentry-sdk"] == sdk.LICENSE
    assert licenses["LICENSE"] == project.text("LICENSE")


def test_wheel_holds_the_package_and_nothing_else(project: Project, tmp_path: Path) -> None:
    files = texts(build(project, tmp_path / "out", "2.9.0", SENTRY_SDK_VERSION="2.9.0"))
    assert {name for name in files if ".dist-info/" not in name} == {
        *(f"vendored_integration/{name}" for name in sdk.OURS),
        *(f"vendored_integration/_vendor/{name}" for name in sdk.FILES),
        "vendored_integration/_vendor/__init__.py",
        "vendored_integration/_vendor/provenance.json",
    }
    assert "@close_aware" in files["vendored_integration/_vendor/wsgi.py"]


def test_wheel_has_nothing_of_earlier_builds(project: Project, tmp_path: Path) -> None:
    """An editable install, a wheel of the later release, and somebody's build/."""
    (tmp_path / "out").mkdir()
    hook(project, "build_editable", str(tmp_path / "out"), installed="9.1.0")
    build(project, tmp_path / "out", "9.1.0")
    project.write("build/lib/vendored_integration/_vendor/django/tasks.py", "")
    project.write("build/lib/vendored_integration/old.py", "")
    wheel = build(project, tmp_path / "out", "2.9.0", SENTRY_SDK_VERSION="2.9.0")
    names = {Path(name).name for name in texts(wheel)}
    assert not {"tasks.py", "old.py"} & names
    # and the editable install is left as it was
    assert "9.1.0" in project.vendored("__init__.py")


def test_same_input_same_bytes(project: Project, tmp_path: Path) -> None:
    """Whatever the umask, the files' times and modes, and the time of day."""
    first = build(project, tmp_path / "first", "9.1.0").read_bytes()
    for path in project.root.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    project.path("LICENSE").chmod(0o640)
    mask = os.umask(0o077)
    try:
        second = build(project, tmp_path / "second", "9.1.0").read_bytes()
    finally:
        os.umask(mask)
    assert first == second


def test_source_date_epoch_is_honoured(project: Project, tmp_path: Path) -> None:
    wheel = build(project, tmp_path / "out", "9.1.0", SOURCE_DATE_EPOCH="1600000000")
    with zipfile.ZipFile(wheel) as archive:
        assert {info.date_time[:3] for info in archive.infolist()} == {(2020, 9, 13)}


def unpacked_sdist(project: Project, tmp_path: Path, **env: str) -> Project:
    out = tmp_path / "sdist"
    out.mkdir()
    name = hook(project, "build_sdist", str(out), **env).split()[-1]
    subprocess.run(["tar", "-xzf", name], cwd=out, check=True)
    return Project(out / name[: -len(".tar.gz")], project.wheels)


def test_sdist_has_the_patches_and_nothing_of_the_sdk(project: Project, tmp_path: Path) -> None:
    """Not even where an editable install has left it."""
    (tmp_path / "out").mkdir()
    hook(project, "build_editable", str(tmp_path / "out"), installed="9.1.0")
    build(project, tmp_path / "out", "9.1.0")
    names = set(unpacked_sdist(project, tmp_path).snapshot())
    assert {"patches/2.9.0/close-aware.patch", "patches/9.1.0/lock.json"} <= names
    assert {"scripts/build_backend.py", "scripts/pipeline/package.py", "setup.py"} <= names
    assert not {name for name in names if "_vendor" in name or "sentry-sdk" in name}


def test_sdist_stays_at_its_release(project: Project, tmp_path: Path) -> None:
    """Built for 2.9.0, it must not become 9.1.0 where the variable is not set."""
    sdist = unpacked_sdist(project, tmp_path, SENTRY_SDK_VERSION="2.9.0")
    assert "2.9.0" in hook(sdist, "get_requires_for_build_wheel")
    wheel = build(sdist, tmp_path / "out", "2.9.0")
    assert metadata(wheel)["Version"] == "2.9.0.1"
    assert "tasks.py" not in {Path(name).name for name in texts(wheel)}
    again = build(sdist, tmp_path / "again", "2.9.0", SENTRY_SDK_VERSION="2.9.0")
    direct = build(project, tmp_path / "direct", "2.9.0", SENTRY_SDK_VERSION="2.9.0")
    assert wheel.read_bytes() == again.read_bytes() == direct.read_bytes()


@pytest.mark.parametrize("version", ["9.1.0", "2.9.9", "junk"])
def test_sdist_refuses_another_release(project: Project, tmp_path: Path, version: str) -> None:
    sdist = unpacked_sdist(project, tmp_path, SENTRY_SDK_VERSION="2.9.0")
    output = refused(sdist, "get_requires_for_build_wheel", SENTRY_SDK_VERSION=version)
    assert "2.9.0" in output
    assert version in output


def test_sdist_of_an_sdist(project: Project, tmp_path: Path) -> None:
    sdist = unpacked_sdist(project, tmp_path, SENTRY_SDK_VERSION="2.9.0")
    (tmp_path / "second").mkdir()
    second = unpacked_sdist(sdist, tmp_path / "second")
    assert "2.9.0" in hook(second, "get_requires_for_build_wheel")


def test_editable_build_generates_in_the_checkout(project: Project, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    hook(project, "build_editable", str(tmp_path / "out"), installed="9.1.0")
    assert "9.1.0" in project.vendored("__init__.py")
    env = {"SENTRY_SDK_VERSION": "2.9.0"}
    hook(project, "build_editable", str(tmp_path / "out"), installed="2.9.0", **env)
    assert "2.9.0" in project.vendored("__init__.py")
    assert not project.path("vendored_integration/_vendor/django/tasks.py").exists()


def test_failing_editable_build_leaves_the_last_one(project: Project, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    hook(project, "build_editable", str(tmp_path / "out"), installed="9.1.0")
    project.path("LICENSE.sentry-sdk").unlink()
    project.replace("patches/9.1.0/close-aware.patch", "+    @close_aware", "+    @closing")
    output = refused(project, "build_editable", str(tmp_path / "out"), installed="9.1.0")
    assert "close-aware.patch" in output
