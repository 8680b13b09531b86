"""Names from outside (ids, methods) that become names of files: which of them stay in their directory."""

MAX_NAME_BYTES = 200
"""Of a name before its suffix; file systems allow 255 bytes with it."""


def is_file_name(text: str) -> bool:
    """Whether ``text``, with a suffix, names a file in a directory, and not one elsewhere, on every system."""
    return (
        0 < len(text.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES
        and not text.startswith(".")
        and text.isprintable()
        and not set(text) & set("/\\:")
    )
