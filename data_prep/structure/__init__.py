"""PDB, mmCIF and BinaryCIF files to protein records and back."""
