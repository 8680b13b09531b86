"""The version of the installed package, which every command and every output states."""

import argparse
from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache  # reading the metadata takes 2 ms, and every structure file states it
def release() -> str:
    """Version of the installed distribution, for example ``0.1.0``; ``0+unknown`` for a copy that is not installed."""
    try:
        return version("lorta-fold")
    except PackageNotFoundError:
        return "0+unknown"


def program() -> str:
    """Name and version, for what files say of the program that wrote them."""
    return f"lorta-fold {release()}"


class _ShowRelease(argparse.Action):
    """Reads the metadata only when asked: it costs a command more than its arguments do."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        print(program())
        parser.exit()


def add_version_option(parser: argparse.ArgumentParser) -> None:
    """``--version``: print the release and exit."""
    parser.add_argument("--version", action=_ShowRelease, nargs=0, help="print the version and exit")
