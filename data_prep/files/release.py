"""Where the version of the package was before ``command_line``."""

from data_prep.files.command_line import add_version_option, program, release

__all__ = ["add_version_option", "program", "release"]
