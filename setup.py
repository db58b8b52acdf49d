"""What pyproject.toml cannot say: the version and the requirements follow the SDK's release."""

import sys
import tempfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel as _bdist_wheel
from setuptools.command.build_py import build_py as _build_py
from setuptools.command.sdist import sdist as _sdist

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))

from pipeline import package, releases, sbom  # noqa: E402

PACKAGE = "vendored_integration"
RELEASE = releases.selected()


class build_py(_build_py):
    """Copies the hand-written modules, then generates _vendor/ beside them.

    For an editable install the backend has generated it in the checkout.
    """

    def run(self):
        super().run()
        if not self.editable_mode:
            package.vendor_installed(RELEASE, Path(self.build_lib, PACKAGE, "_vendor"))


class bdist_wheel(_bdist_wheel):
    """Adds the SBOM, and gives the wheel's files the same modes whatever the umask."""

    def write_wheelfile(self, dist_info, *args, **kwargs):
        super().write_wheelfile(dist_info, *args, **kwargs)
        # The last step before the archive is written, for an editable one as well.
        path = Path(dist_info, "sboms", sbom.NAME)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(package.sbom_text(RELEASE))
        for path in Path(self.bdist_dir).rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)


class sdist(_sdist):
    """Leaves out what comes from the SDK: the wheel's build puts it there."""

    def run(self):
        self.distribution.metadata.license_files = ["LICENSE"]
        super().run()


with tempfile.TemporaryDirectory() as build_base:
    setup(
        version=releases.version(RELEASE),
        license="MIT",
        # LICENSE.sentry-sdk is written by the build backend.
        license_files=["LICENSE", "LICENSE.sentry-sdk"],
        install_requires=[f"sentry-sdk=={RELEASE}", releases.DJANGO, "packaging"],
        # _vendor/ of an earlier editable install must not get into a wheel.
        packages=find_packages(include=[f"{PACKAGE}*"], exclude=[f"{PACKAGE}._vendor*"]),
        package_data={PACKAGE: ["py.typed"]},
        include_package_data=False,
        zip_safe=False,
        cmdclass={"build_py": build_py, "bdist_wheel": bdist_wheel, "sdist": sdist},
        # Never build/: what an earlier build for another release left there would be
        # packed too.
        options={"build": {"build_base": build_base}},
    )
