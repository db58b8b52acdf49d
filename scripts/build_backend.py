"""PEP 517 build backend: setuptools', plus the SDK that the build reads.

pip installs the chosen sentry-sdk into the isolated build environment, since the
`get_requires` hooks below ask for it; so building needs neither git, nor patch,
nor a download of our own.
"""

from __future__ import annotations

import functools
import os
from typing import Any, Callable

from setuptools import build_meta

from pipeline import package, releases, upstream
from pipeline.errors import PipelineError

# Same input, same bytes: setuptools writes this time into the wheel. The variable,
# where it is set, wins; 1980-01-01 is the earliest that a zip file can hold.
os.environ.setdefault("SOURCE_DATE_EPOCH", "315532800")


def _hook(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show an error of ours as it is, without a traceback around it."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except PipelineError as error:
            raise SystemExit(f"error: {error}") from None

    return wrapper


def _with_license(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a hook of setuptools with the SDK's licence beside ours."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        path = releases.ROOT / "LICENSE.sentry-sdk"
        # Compared with the lock when the package is generated.
        path.write_bytes(upstream.read_installed(releases.selected()).license)
        return function(*args, **kwargs)

    return _hook(wrapper)


@_hook
def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return [f"sentry-sdk=={releases.selected()}"]


get_requires_for_build_editable = get_requires_for_build_wheel


@_hook
def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    return []


@_with_license
def build_editable(*args: Any, **kwargs: Any) -> Any:
    # Here and not in setup.py's build_py, since setuptools goes on after an error
    # of build_py in an editable build.
    directory = releases.ROOT / "vendored_integration" / "_vendor"
    package.vendor_installed(releases.selected(), directory)
    return build_meta.build_editable(*args, **kwargs)


# setup.py generates what goes into the wheel.
build_wheel = _with_license(build_meta.build_wheel)
build_sdist = _hook(build_meta.build_sdist)
prepare_metadata_for_build_wheel = _with_license(build_meta.prepare_metadata_for_build_wheel)
prepare_metadata_for_build_editable = _with_license(build_meta.prepare_metadata_for_build_editable)
