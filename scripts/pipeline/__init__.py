"""From an SDK release to the files of vendored_integration/_vendor/.

The stages, in reading order: fetch, extract, rewrite, patchqueue, lock, provenance,
sbom, emit; `releases` says which release, `errors` what is refused. Maintaining
patches/: refresh, port, merge, git, index. Building all wheels: wheels.
"""

from __future__ import annotations

try:
    import packaging.version  # noqa: F401
    import unidiff  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"scripts/pipeline: the module {error.name} is not installed\n"
        "  expected: packaging and unidiff\n"
        "  next: python3 -m pip install packaging unidiff build rich   (if the system's Python "
        'refuses: see "Set up" in CONTRIBUTING.md)'
    ) from None

from pathlib import Path

from . import emit, extract, fetch, lock, patchqueue, provenance, releases, rewrite, sbom
from .extract import Upstream

_PACKAGE = '''\
"""Generated from sentry-sdk {release} by scripts/vendor.py, do not edit.

Mirrors sentry_sdk/integrations/: wsgi.py and django/, patched.
"""

SENTRY_SDK_RELEASE = "{release}"
REVISION = {revision}
'''


def vendor(release: str, upstream: Upstream) -> dict[str, bytes]:
    """The files of _vendor/ for the release, every step checked against the lock."""
    directory = releases.supported()[release]
    locked = lock.locked_or_refuse(directory)
    lock.check_upstream(locked, release, upstream)
    texts = rewrite.rewrite(upstream.files)
    patches = patchqueue.read(directory)
    lock.check_patches(locked, patches)
    for patch in patches:
        texts = patchqueue.apply(patch, texts)
    files = rewrite.append_tail(texts)
    lock.check_vendored(locked, files)
    generated = _generated(release)
    stated = provenance.dump(provenance.statement(release, locked, generated))
    return {**files, **generated, provenance.NAME: stated}


def sbom_text(release: str) -> bytes:
    """What the wheel carries, as an SBOM; checked against the lock as well."""
    directory = releases.supported()[release]
    locked = lock.locked_or_refuse(directory)
    patches = patchqueue.read(directory)
    lock.check_patches(locked, patches)
    return sbom.document(provenance.statement(release, locked, _generated(release)), patches)


def _generated(release: str) -> dict[str, bytes]:
    package = _PACKAGE.format(release=release, revision=releases.REVISION)
    return {"__init__.py": package.encode("utf-8")}


def upstream(release: str) -> Upstream:
    """A supported release's files, from its wheel, which is the one in the lock."""
    locked = lock.locked_or_refuse(releases.supported()[release])
    return extract.from_wheel(fetch.fetch(release, locked))


def vendor_installed(release: str, directory: Path) -> None:
    """What `pip install` runs: the SDK is the one installed beside the build."""
    emit.write(vendor(release, extract.from_installed(release)), directory)


def license_installed(release: str) -> bytes:
    """The installed SDK's licence, checked against the lock."""
    upstream = extract.from_installed(release)
    locked = lock.locked_or_refuse(releases.supported()[release])
    lock.check_upstream(locked, release, upstream)
    return upstream.license
