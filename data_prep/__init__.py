"""Structure files to protein records to datasets. Imports nothing of the project."""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from data_prep.files.command_line import release

    return release()
