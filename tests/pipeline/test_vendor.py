"""scripts/vendor.py, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sdk
from conftest import Project

VENDOR = "vendored_integration/_vendor"


def test_build_makes_the_files_of_the_release(project: Project) -> None:
    """Imports are rewritten, the patch is applied, and nothing else has changed."""
    project.vendor("build", "9.0.0")
    expected = sdk.WSGI.replace("LIMIT = 1", "LIMIT = 2").replace(
        "    return name\n", "    return name\n    # added\n"
    )
    assert project.vendored("wsgi.py").startswith(expected)
    django = sdk.DJANGO.replace("sentry_sdk.integrations", "vendored_integration._vendor").replace(
        "@add_global_repr_processor", "@_spared.for_query_sets(add_global_repr_processor)"
    )
    assert project.vendored("django/__init__.py").startswith(django)
    asgi = project.vendored("django/asgi.py")
    assert "`vendored_integration._vendor.django`" in asgi
    assert "    from vendored_integration.runtime.asgi import SentryAsgiMiddleware\n" in asgi
    root = project.path(VENDOR)
    found = {p.relative_to(root).as_posix() for p in root.rglob("*.py")}
    assert found == {*sdk.FILES, "__init__.py"}


def test_work_that_nobody_sees_is_left_out(project: Project) -> None:
    project.vendor("build", "9.0.0")
    middleware = project.vendored("django/middleware.py")
    assert "import sentry_sdk, vendored_integration.runtime.spared as _spared\n" in middleware
    assert "if not (integration.middleware_spans and _spared.wanted()):" in middleware
    assert "return _spared.start_span(name=" in middleware
    assert "if_wanted(sentry_patched_make_view_atomic, old_" in project.vendored("django/views.py")
    assert "if_wanted(_sentry_live_receivers, old_live_receivers)" in project.vendored(
        "django/signals_handlers.py"
    )


def test_package_says_what_it_is_made_from(project: Project) -> None:
    project.vendor("build", "9.0.0")
    namespace: dict = {}
    exec(project.vendored("__init__.py"), namespace)
    assert namespace["SENTRY_SDK_RELEASE"] == "9.0.0"
    assert namespace["REVISION"] == 1
    assert "do not edit" in namespace["__doc__"]


def test_frames_look_like_the_sdks_own_and_classes_keep_their_module(
    project: Project,
) -> None:
    """The SDK goes by the module's name in the frame's globals, see rewrite.py."""
    project.vendor("build", "9.0.0")
    output = project.run(
        sys.executable,
        "-c",
        "import vendored_integration._vendor.wsgi as wsgi\n"
        "print(wsgi.__name__, wsgi.handle.__module__)\n"
        "from vendored_integration._vendor.django import Integration\n"
        "print(Integration().setup()[0].__name__)",
    )
    name = "vendored_integration._vendor"
    assert output.split() == [
        f"sentry_sdk.{name}.wsgi",
        f"{name}.wsgi",
        f"sentry_sdk.{name}.django.asgi",
    ]


def test_newest_release_is_the_default(project: Project) -> None:
    assert "9.1.0" in project.vendor("build")
    assert "sys.platform" in project.vendored("wsgi.py")


def test_build_for_another_release_leaves_nothing_of_the_first(project: Project) -> None:
    """9.1.0 has tasks.py and 9.0.0 has not."""
    project.vendor("build", "9.1.0")
    assert project.path(f"{VENDOR}/django/tasks.py").is_file()
    project.vendor("build", "9.0.0")
    assert not project.path(f"{VENDOR}/django/tasks.py").exists()
    # nor anything of the swap itself
    names = sorted(path.name for path in project.path("vendored_integration").iterdir())
    assert names == ["__init__.py", "_vendor", "py.typed", "runtime"]


def test_short_form_of_a_release(project: Project) -> None:
    assert "sentry-sdk 9.1.0" in project.vendor("build", "9.1")


@pytest.mark.parametrize("command", ["build", "check", "refresh", "diff"])
@pytest.mark.parametrize(
    ("release", "reason"),
    [
        ("9.0.1", "no patches"),
        ("9.2.0", "no patches"),
        ("1.45.1", "no isolation scopes before 2.0.0"),
        ("9.1.0rc1", "pre-releases"),
        ("9.1.0.dev3", "pre-releases"),
        ("9.1.0.post1", "only final"),
        ("9.1.0+local", "only final"),
        ("newest", "not a release number"),
    ],
)
def test_release_that_is_not_supported(
    project: Project, command: str, release: str, reason: str
) -> None:
    """The message lists those that are."""
    output = project.refused(command, release)
    assert reason in output
    assert "9.0.0, 9.1.0" in output
    assert release in output


def test_wheel_comes_through_pip_and_is_kept(project: Project, tmp_path: Path) -> None:
    published = tmp_path / "published"
    published.mkdir()
    wheel = next(project.wheels.glob("*-9.1.0-*"))
    wheel.rename(published / wheel.name)
    project.vendor("build", "9.1.0", PIP_FIND_LINKS=str(published))
    assert wheel.is_file()
    project.vendor("build", "9.1.0")  # no index, no links: from the cache


def test_wheel_that_cannot_be_had(project: Project) -> None:
    """pip's own words, and its command line to try again with."""
    next(project.wheels.glob("*-9.1.0-*")).unlink()
    output = project.refused("build", "9.1.0")
    assert "No matching distribution found for sentry-sdk==9.1.0" in output
    assert "pip download" in output
    assert not list(project.wheels.glob("tmp*"))


def test_release_that_the_index_has_not(project: Project) -> None:
    """A hundred versions would hide what is wrong."""
    project.env["PIP_FIND_LINKS"] = str(project.wheels)
    for command in ("port", "9.9.9", "--from-nearest"), ("refresh", "--add", "9.9.9"):
        output = project.refused(*command)
        assert "No matching distribution found for sentry-sdk==9.9.9" in output
        assert "next: python3 scripts/vendor.py status" in output
        assert "9.0.0" not in output


def test_index_that_cannot_be_reached(project: Project, tmp_path: Path) -> None:
    """pip's reason, once, however often it has tried."""
    index = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "2"}
    index["VENDOR_CACHE"] = str(tmp_path / "empty")
    for command in "status", "build":
        output = project.vendor(command, status=2, **index)
        assert output.count("Connection refused") == 1
        assert "Traceback" not in output


def test_cache_that_cannot_be_one(project: Project) -> None:
    cache = str(project.path("README.md"))
    for command in ("build",), ("port", "--missing"):
        output = project.refused(*command, VENDOR_CACHE=cache)
        assert f"{cache}: the SDK's wheels cannot be kept there" in output
        assert "next: set VENDOR_CACHE" in output


def test_tampered_wheel(project: Project) -> None:
    """One byte more is enough, whether or not a vendored file is concerned."""
    project.vendor("build", "9.0.0")
    wheel = next(project.wheels.glob("*-9.0.0-*"))
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    output = project.refused("build", "9.0.0")
    assert wheel.name in output
    assert "expected" in output
    assert "found" in output
    assert f"rm {wheel}" in output


def test_wheel_that_is_no_zip_file(project: Project) -> None:
    """Adding a release has no hash to check, so the damage shows on opening it."""
    project.patches("9.2.0")
    project.wheels.joinpath("sentry_sdk-9.2.0-py3-none-any.whl").write_bytes(b"junk")
    assert "not a wheel" in project.refused("refresh", "9.2.0")


def test_tampered_patch(project: Project) -> None:
    """A changed patch is refused until `refresh` has locked it."""
    project.replace("patches/9.0.0/limit.patch", "+LIMIT = 2", "+LIMIT = 3")
    output = project.refused("build", "9.0.0")
    assert "limit.patch: expected" in output
    assert "vendor.py refresh 9.0.0" in output
    project.vendor("refresh", "9.0.0")
    project.vendor("build", "9.0.0")
    assert "LIMIT = 3" in project.vendored("wsgi.py")


def test_tampered_patch_header(project: Project) -> None:
    """The words count too: the hash is the whole file's."""
    project.replace("patches/9.0.0/limit.patch", "want it so", "do not")
    assert "limit.patch: expected" in project.refused("build", "9.0.0")


@pytest.mark.parametrize(
    "path",
    [
        ("files", "wsgi.py", "vendored"),
        ("files", "wsgi.py", "upstream"),
        ("patches", 0, "sha256"),
        ("releases", "9.0.0", "sha256"),
        ("releases", "9.0.0", "license"),
        ("digest",),
        ("format",),
    ],
)
def test_tampered_lock(project: Project, path: tuple) -> None:
    """Also values that the command would not have looked at."""
    lock = json.loads(project.text("patches/9.0.0/lock.json"))
    parent = lock
    for key in path[:-1]:
        parent = parent[key]
    value = str(parent[path[-1]])
    project.replace("patches/9.0.0/lock.json", value, str((int(value[0], 16) + 1) % 10) + value[1:])
    output = project.refused("build", "9.0.0")
    assert "patches/9.0.0/lock.json" in output
    assert "git checkout -- patches/9.0.0/lock.json" in output


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}'])
def test_lock_that_is_no_lock(project: Project, text: str) -> None:
    project.write("patches/9.0.0/lock.json", text)
    assert "patches/9.0.0/lock.json" in project.refused("build", "9.0.0")


def test_lock_with_other_white_space(project: Project) -> None:
    """Not a byte of it may change."""
    project.replace("patches/9.0.0/lock.json", "{\n", "{ \n")
    assert "lock.json" in project.refused("build", "9.0.0")


def test_missing_lock(project: Project) -> None:
    project.path("patches/9.0.0/lock.json").unlink()
    assert "vendor.py refresh 9.0.0" in project.refused("build", "9.0.0")
    assert "missing" in project.vendor("status", status=2)  # there is no index


def test_lock_of_another_directory(project: Project) -> None:
    """A lock that is whole in itself, but not this directory's."""
    other = project.text("patches/9.0.0/lock.json")
    project.write("patches/9.1.0/lock.json", other)
    output = project.refused("build", "9.1.0")
    assert "patches/9.1.0/lock.json: cannot serve 9.0.0" in output


def test_lock_that_disagrees_with_the_result(project: Project) -> None:
    """Patches applied by other code than the lock was made with: refused by hash."""
    project.replace("scripts/pipeline/rewrite.py", "# Generated by", "# Also generated by")
    output = project.refused("build", "9.0.0")
    assert "wsgi.py: expected" in output
    assert "vendor.py refresh" in output


def test_other_files_under_the_same_release_number(project: Project) -> None:
    """A release cannot change; the old lock is what tells."""
    project.release("9.0.0", {**sdk.FILES, "wsgi.py": sdk.WSGI + "\n"})
    assert "sentry_sdk-9.0.0" in project.refused("refresh", "9.0.0")


def test_nothing_is_half_written_when_a_later_release_fails(project: Project) -> None:
    """`refresh` computes everything before it writes anything."""
    project.replace("patches/9.0.0/limit.patch", "+LIMIT = 2", "+LIMIT = 3")
    project.replace("patches/9.1.0/limit.patch", "-LIMIT = 1", "-LIMIT = 9")
    project.refused("refresh")


def test_check_finds_nothing(project: Project) -> None:
    """With and without a generated directory."""
    assert project.vendor("check").count("checked") == 2
    project.vendor("build")
    project.vendor("check")
    project.vendor("check", "9.0.0")


def test_check_lists_what_differs_is_missing_or_is_extra(project: Project) -> None:
    project.vendor("build", "9.1.0")
    project.replace(f"{VENDOR}/wsgi.py", "LIMIT = 2", "LIMIT = 3")
    project.path(f"{VENDOR}/django/tasks.py").unlink()
    project.write(f"{VENDOR}/django/extra.py", "")
    output = project.vendor("check", status=1)
    assert f"{VENDOR}/wsgi.py: expected" in output
    assert f"{VENDOR}/django/tasks.py: missing" in output
    assert f"{VENDOR}/django/extra.py: extra" in output


def test_check_looks_past_what_running_leaves(project: Project) -> None:
    project.vendor("build", "9.1.0")
    project.write(f"{VENDOR}/__pycache__/wsgi.cpython-311.pyc", "")
    project.vendor("check")


def test_check_wants_a_generated_directory_to_say_its_release(project: Project) -> None:
    project.vendor("build", "9.1.0")
    project.path(f"{VENDOR}/__init__.py").unlink()
    assert "__init__.py" in project.vendor("check", status=1)


def test_check_finds_a_tampered_patch_and_goes_on(project: Project) -> None:
    project.replace("patches/9.0.0/limit.patch", "+LIMIT = 2", "+LIMIT = 3")
    output = project.vendor("check", status=1)
    assert "limit.patch: expected" in output
    assert "9.1.0: checked" in output


def test_check_finds_what_does_not_compile(project: Project) -> None:
    project.replace("patches/9.0.0/limit.patch", "+LIMIT = 2", "+LIMIT = (")
    project.vendor("refresh", "9.0.0")
    assert "wsgi.py" in project.vendor("check", "9.0.0", status=1)


def test_check_writes_nothing(project: Project) -> None:
    before = project.snapshot()
    project.vendor("check")
    assert project.snapshot() == before


def test_diff_shows_context(project: Project) -> None:
    """From the real source: the patch file has none."""
    output = project.vendor("diff", "9.0.0")
    assert "Description: Raise the limit" in output
    assert "\n-LIMIT = 1\n+LIMIT = 2\n" in output
    assert "\n     name = environ" in output
    assert "\033" not in output
    assert "environ" not in project.vendor("diff", "9.0.0", "limit.patch", "-U0")


def test_diff_of_a_patch_that_is_not_there(project: Project) -> None:
    output = project.refused("diff", "9.0.0", "other.patch")
    assert "limit.patch" in output
    assert "next: python3 scripts/vendor.py diff 9.0.0\n" in output


def test_diff_with_less_than_no_context(project: Project) -> None:
    assert "expected: 0 or more" in project.refused("diff", "9.0.0", "-U", "-3")


@pytest.mark.parametrize("args", [("build",), ("build", "9.0.0"), ("check",), ("refresh",)])
def test_no_patches_at_all(project: Project, args: tuple) -> None:
    project.path("patches").rename(project.path("elsewhere"))
    assert "next: git checkout -- patches\n" in project.refused(*args)


@pytest.mark.parametrize("command", ["build", "status"])
def test_directory_that_belongs_to_no_release(project: Project, command: str) -> None:
    project.path("patches/9.9.9").mkdir()
    assert "or remove the directory" in project.refused(command)


def test_help_names_every_command(project: Project) -> None:
    output = project.vendor("--help")
    for command in ("build", "check", "refresh", "diff", "port", "replay", "status"):
        assert f"\n  {command} " in f"\n{output}".replace("    ", "  ")
        assert "usage" in project.vendor(command, "--help")


def test_plain_machine(project: Project) -> None:
    """Without its libraries vendor.py says how to get them; what --help says needs none."""
    plain = (sys.executable, "-S", "scripts/vendor.py")
    output = project.run(*plain, "status", status=2)
    assert output.startswith("error: ")
    assert "pip install packaging unidiff build rich" in output
    assert "Traceback" not in output
    for arguments in ("--help",), ("wheels", "--help"):
        assert project.run(*plain, *arguments) == project.vendor(*arguments)


def test_reader_that_has_seen_enough(project: Project) -> None:
    """``vendor.py diff | head`` is no fault of the program."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
        done = subprocess.run(
            [sys.executable, "scripts/vendor.py", "diff", "9.1.0"],
            cwd=project.root,
            env=project.env,
            stdout=nobody,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
    assert (done.returncode, done.stderr) == (141, "")
