"""The build backend, called as a frontend calls it, with the made-up SDK installed.

Offline: the requirements that pip would fetch are those of the tests themselves.
"""

import email.parser
import importlib.util
import os
import zipfile
from pathlib import Path
from typing import Dict

import pytest
import sdk
from conftest import Project, files_of

EPOCH = "1600000000"
kinds = pytest.mark.parametrize("kind", ["wheel", "editable"])


def refused(project: Project, name: str, *args: str, **kwargs: object) -> str:
    """Call a hook, which must fail, say so properly, and change nothing."""
    before = project.snapshot()
    output = project.hook(name, *args, status=1, **kwargs)  # type: ignore[arg-type]
    assert project.snapshot() == before
    # setuptools may have said what it was doing before
    return output[output.rindex("error: ") :]


@kinds
@pytest.mark.parametrize(
    ("env", "release"), [({}, "9.1.0"), ({"SENTRY_SDK_VERSION": "2.9.0"}, "2.9.0")]
)
def test_frontend_is_asked_for_the_sdk(
    project: Project, kind: str, env: Dict[str, str], release: str
) -> None:
    output = project.hook(f"get_requires_for_build_{kind}", **env)
    assert output == f"['sentry-sdk=={release}']\n"
    assert project.hook("get_requires_for_build_sdist") == "[]\n"


@pytest.mark.parametrize("version", ["2.9.1", "9.1.0a1", "junk"])
def test_variable_with_a_release_that_is_not_supported(project: Project, version: str) -> None:
    output = refused(project, "get_requires_for_build_wheel", SENTRY_SDK_VERSION=version)
    assert f"sentry-sdk {version}: there are no patches for it" in output
    assert "2.9.0, 9.1.0" in output


@pytest.mark.skipif(
    importlib.util.find_spec("sentry_sdk") is not None,
    reason="sentry-sdk is installed beside pytest and cannot be hidden",
)
@kinds
def test_no_sdk_beside_the_build(project: Project, kind: str, tmp_path: Path) -> None:
    """As with pip's --no-build-isolation in an environment without it."""
    output = refused(project, f"build_{kind}", str(tmp_path))
    assert "no sentry-sdk" in output
    assert "pip install sentry-sdk==9.1.0" in output


@kinds
def test_other_sdk_beside_the_build(project: Project, kind: str, tmp_path: Path) -> None:
    output = refused(project, f"build_{kind}", str(tmp_path), site=project.site("2.9.0"))
    assert "found: sentry-sdk 2.9.0" in output
    assert "pip install sentry-sdk==9.1.0" in output
    assert "SENTRY_SDK_VERSION=2.9.0" in output


@kinds
@pytest.mark.parametrize("at", [0, 0.5, 1, None])
@pytest.mark.parametrize(
    "name",
    [
        "patches/9.1.0/close-aware.patch",
        "patches/9.1.0/lock.json",
        "site/sentry_sdk/integrations/wsgi.py",
        "site/sentry_sdk/integrations/django/__init__.py",
        "site/sentry_sdk-9.1.0.dist-info/licenses/LICENSE",
    ],
)
def test_one_tampered_byte(
    project: Project, kind: str, at: "float | None", name: str, tmp_path: Path
) -> None:
    """First, middle or last, of whatever the build reads, or the file is gone: nothing is built."""
    site = sdk.install(project.root / "site", "9.1.0", sdk.LATER)
    path = project.path(name)
    data = bytearray(path.read_bytes())
    if at is None:
        path.unlink()
    else:
        data[int(at * (len(data) - 1))] ^= 1
        path.write_bytes(data)
    (tmp_path / "out").mkdir()
    error = refused(project, f"build_{kind}", str(tmp_path / "out"), site=site)
    assert f"{path.name}: " in error or "patches/9.1.0/lock.json: missing" in error
    assert "next: " in error
    assert not list((tmp_path / "out").iterdir())
    assert not project.path("vendored_integration/_vendor").exists()


def test_wheel(project: Project, tmp_path: Path) -> None:
    """What it is called and requires, its licences, and that it has nothing else."""
    wheel = project.build(tmp_path / "out", "2.9.0")
    assert wheel.name == "vendored_integration-2.9.0.1-py3-none-any.whl"
    files = files_of(wheel)
    info = "vendored_integration-2.9.0.1.dist-info"
    metadata = email.parser.Parser().parsestr(files[f"{info}/METADATA"])
    assert metadata["Name"] == "vendored-integration"
    assert metadata["Version"] == "2.9.0.1"
    requires = [value.replace(" ", "") for value in metadata.get_all("Requires-Dist", [])]
    assert {"sentry-sdk==2.9.0", "packaging"} < {*requires}
    assert metadata["Requires-Python"] == ">=3.8"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert metadata.get_all("License-File") == ["LICENSE", "LICENSE.sentry-sdk"]
    assert files[f"{info}/licenses/LICENSE.sentry-sdk"] == sdk.LICENSE
    assert files[f"{info}/licenses/LICENSE"] == project.text("LICENSE")
    assert {name for name in files if ".dist-info/" not in name} == {
        *(f"vendored_integration/{name}" for name in sdk.OURS),
        *(f"vendored_integration/_vendor/{name}" for name in sdk.FILES),
        "vendored_integration/_vendor/__init__.py",
        "vendored_integration/_vendor/provenance.json",
    }
    assert "@close_aware" in files["vendored_integration/_vendor/wsgi.py"]


def test_wheel_has_nothing_of_earlier_builds(project: Project, tmp_path: Path) -> None:
    """An editable install, a wheel of the later release, and somebody's build/."""
    project.build(tmp_path / "out", "9.1.0", "editable")
    project.build(tmp_path / "out", "9.1.0")
    project.write("build/lib/vendored_integration/_vendor/django/tasks.py", "")
    project.write("build/lib/vendored_integration/old.py", "")
    names = {Path(name).name for name in files_of(project.build(tmp_path / "out", "2.9.0"))}
    assert not {"tasks.py", "old.py"} & names
    # and the editable install is left as it was
    assert "9.1.0" in project.vendored("__init__.py")


def test_same_input_same_bytes(project: Project, tmp_path: Path) -> None:
    """Whatever the umask, the files' times and modes, and the time of day."""
    first = project.build(tmp_path / "first", "9.1.0").read_bytes()
    for path in project.root.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    project.path("LICENSE").chmod(0o640)
    mask = os.umask(0o077)
    try:
        second = project.build(tmp_path / "second", "9.1.0").read_bytes()
    finally:
        os.umask(mask)
    assert first == second
    third = project.build(tmp_path / "third", "9.1.0", SOURCE_DATE_EPOCH=EPOCH)
    with zipfile.ZipFile(third) as archive:
        assert {info.date_time[:3] for info in archive.infolist()} == {(2020, 9, 13)}


def unpacked_sdist(project: Project, directory: Path, **env: str) -> Project:
    directory.mkdir()
    name = project.hook("build_sdist", str(directory), **env).split()[-1]
    project.run("tar", "-xzf", str(directory / name), "-C", str(directory))
    return Project(directory / name[: -len(".tar.gz")], project.wheels)


def test_sdist_has_the_patches_and_nothing_of_the_sdk(project: Project, tmp_path: Path) -> None:
    """Not even where an editable install has left it."""
    project.build(tmp_path / "out", "9.1.0", "editable")
    project.build(tmp_path / "out", "9.1.0")
    names = set(unpacked_sdist(project, tmp_path / "sdist").snapshot())
    assert {"patches/2.9.0/close-aware.patch", "patches/9.1.0/lock.json"} <= names
    assert {"scripts/build_backend.py", "scripts/pipeline/package.py", "setup.py"} <= names
    assert not {name for name in names if "_vendor" in name or "sentry-sdk" in name}


def test_sdist_stays_at_its_release(project: Project, tmp_path: Path) -> None:
    """Built for 2.9.0, it must not become 9.1.0 where the variable is not set."""
    env = {"SENTRY_SDK_VERSION": "2.9.0"}
    sdist = unpacked_sdist(project, tmp_path / "sdist", **env)
    again = unpacked_sdist(sdist, tmp_path / "again")
    assert "2.9.0" in again.hook("get_requires_for_build_wheel")
    wheels = [
        sdist.build(tmp_path / "a", "2.9.0", SENTRY_SDK_VERSION=""),
        sdist.build(tmp_path / "b", "2.9.0"),
        project.build(tmp_path / "c", "2.9.0"),
    ]
    assert wheels[0].name == "vendored_integration-2.9.0.1-py3-none-any.whl"
    assert len({wheel.read_bytes() for wheel in wheels}) == 1
    for version in "9.1.0", "junk":
        env = {"SENTRY_SDK_VERSION": version}
        output = refused(sdist, "get_requires_for_build_wheel", **env)
        assert "this source distribution is for sentry-sdk 2.9.0" in output
        assert version in output


def test_editable_build(project: Project, tmp_path: Path) -> None:
    """It generates in the checkout, and leaves the last one if it fails."""
    project.build(tmp_path / "out", "9.1.0", "editable")
    assert "9.1.0" in project.vendored("__init__.py")
    project.build(tmp_path / "out", "2.9.0", "editable")
    assert "2.9.0" in project.vendored("__init__.py")
    assert not project.path("vendored_integration/_vendor/django/tasks.py").exists()
    project.replace("patches/9.1.0/close-aware.patch", "+    @close_aware", "+    @closing")
    output = refused(project, "build_editable", str(tmp_path / "out"), site=project.site("9.1.0"))
    assert "close-aware.patch" in output
