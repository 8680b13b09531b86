"""Scores of predicted structures. May import data_prep; its commands start without torch and scipy."""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from data_prep.files.command_line import release

    return release()
