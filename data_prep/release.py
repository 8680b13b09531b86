"""The version of the installed package, which every command states."""

import argparse
from importlib.metadata import version


def release() -> str:
    """Version of the installed distribution, for example ``0.1.0``."""
    return version("lorta-fold")


class _ShowRelease(argparse.Action):
    """Reads the metadata only when asked: it costs a command more than its arguments do."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        print(f"lorta-fold {release()}")
        parser.exit()


def add_version_option(parser: argparse.ArgumentParser) -> None:
    """``--version``: print the release and exit."""
    parser.add_argument("--version", action=_ShowRelease, nargs=0, help="print the version and exit")
