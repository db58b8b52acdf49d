"""Which SDK release this package was built for, and whether it is the one installed."""

from sentry_sdk.consts import VERSION as SDK_INSTALLED

try:
    from ._vendor import SENTRY_SDK_RELEASE, VERSION
except ImportError as error:
    raise ImportError(
        "vendored_integration has not been built: vendored_integration/_vendor/ is "
        "missing. In the checkout run: pip install . (or pip install -e .)"
    ) from error

__version__: str = VERSION


def check_sdk() -> None:
    """Refuse to work with an SDK whose source is not the one that was copied.

    :raises ImportError: another release of sentry-sdk is installed.
    """
    if SDK_INSTALLED != SENTRY_SDK_RELEASE:
        raise ImportError(
            f"vendored-integration {__version__} was built for sentry-sdk "
            f"{SENTRY_SDK_RELEASE}, but sentry-sdk {SDK_INSTALLED} is installed. "
            "To keep your SDK: pip install --find-links DIRECTORY_OF_YOUR_WHEELS "
            f'"vendored-integration=={SDK_INSTALLED}.*", or in a checkout: '
            f"SENTRY_SDK_VERSION={SDK_INSTALLED} pip install .; "
            f'to keep this build: pip install "sentry-sdk=={SENTRY_SDK_RELEASE}"'
        )
