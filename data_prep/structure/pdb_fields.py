"""What the readers and the writer of the PDB format share."""

MONTHS: tuple[str, ...] = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")

HYBRID36_DIGITS: str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Numbers beyond their columns go on in base 36 with a leading letter (hybrid-36, cctbx): after 9999 comes A000."""


def word(text: bytes) -> int:
    """The number that these bytes are as a little-endian word."""
    return int.from_bytes(text, "little")
