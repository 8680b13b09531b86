"""Errors that a user can cause and put right. Commands print them as one line and exit with their code."""


class UserError(ValueError):
    """Wrong usage or input: ``str()`` is one line that says what was found, what was expected and what to do."""

    exit_code = 2


class RunError(UserError):
    """A run that began well and failed."""

    exit_code = 1
