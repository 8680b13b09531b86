"""Constants of the PDB format that reading and writing share."""

MONTHS: tuple[str, ...] = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")

HYBRID36_DIGITS: str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Numbers beyond their columns go on in base 36 with a leading letter (hybrid-36, cctbx): after 9999 comes A000."""
