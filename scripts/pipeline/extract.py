"""Read the files that are vendored out of a wheel, or out of an installed SDK.

They are read as bytes; nothing of the SDK is ever imported or run.
"""

from __future__ import annotations

import re
import sys
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Callable, Iterable

from .errors import FetchError, MismatchError

# The SDK's file name -> the name below _vendor/.
_VENDORED = re.compile(r"sentry_sdk/integrations/(wsgi\.py|django/\w+\.py)")
# What the licence has to be: another one may not allow to copy, or ask for more.
LICENSE_ID = "MIT"
_LICENSE_TITLE = b"MIT License\n"

# Up to 2.25 the licence lay one level higher.
_LICENSE = re.compile(r"sentry_sdk-[^/]+\.dist-info/(?:licenses/)?LICENSE")


@dataclass(frozen=True)
class Upstream:
    """One SDK release: its files by their path below `integrations/`, its licence."""

    files: dict[str, bytes]
    license: bytes


def from_wheel(wheel: Path) -> Upstream:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return _extract(str(wheel), archive.namelist(), archive.read)
    except zipfile.BadZipFile as error:
        raise MismatchError(
            f"{wheel}: not a wheel",
            expected="a zip file",
            found=str(error),
            next=f"rm {wheel}",
        ) from error


def from_installed(release: str) -> Upstream:
    """Read the SDK that pip has installed beside this build."""
    install = f"{sys.executable} -m pip install sentry-sdk=={release}"
    try:
        distribution = metadata.distribution("sentry-sdk")
    except metadata.PackageNotFoundError:
        raise FetchError(
            "building vendored-integration needs the SDK that it is made from",
            expected=f"sentry-sdk {release}, installed beside the build requirements",
            found="no sentry-sdk",
            next=f"{install}   (or build without --no-build-isolation)",
        ) from None
    if distribution.version != release:
        raise FetchError(
            "building vendored-integration needs exactly the SDK that it is made from",
            expected=f"sentry-sdk {release}",
            found=f"sentry-sdk {distribution.version}",
            next=f"{install}   (or SENTRY_SDK_VERSION={distribution.version}, "
            "or build without --no-build-isolation)",
        )
    paths = {
        str(path).replace("\\", "/"): Path(str(distribution.locate_file(path)))
        for path in distribution.files or ()
    }
    return _extract(
        f"the installed sentry-sdk {release}",
        [name for name, path in paths.items() if path.is_file()],
        lambda name: paths[name].read_bytes(),
    )


def _extract(source: str, names: Iterable[str], read: Callable[[str], bytes]) -> Upstream:
    files, licenses = {}, []
    for name in sorted(names):
        vendored = _VENDORED.fullmatch(name)
        if vendored:
            files[vendored[1]] = read(name)
        elif _LICENSE.fullmatch(name):
            licenses.append(read(name))
    if "wsgi.py" not in files or "django/__init__.py" not in files or not licenses:
        raise MismatchError(
            f"{source}: not the layout that is vendored",
            expected="sentry_sdk/integrations/wsgi.py and django/, and a LICENSE",
            found=", ".join([*files, *(["LICENSE"] if licenses else [])]) or "none of it",
            next="get the SDK anew: pip install --force-reinstall --no-deps sentry-sdk==RELEASE",
        )
    return Upstream(files, licenses[0])


def check_license(release: str, upstream: Upstream) -> None:
    """For a release that is being locked: its lock vouches for it from then on."""
    if not upstream.license.startswith(_LICENSE_TITLE):
        raise MismatchError(
            f"sentry-sdk {release}: the licence is another one",
            expected=_LICENSE_TITLE.decode().strip(),
            found=upstream.license.decode("utf-8", "replace").strip().split("\n")[0],
            next="read it; do not go on before it is clear that it allows this",
        )
