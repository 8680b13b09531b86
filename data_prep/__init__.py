"""Structure files to protein records to datasets. Imports nothing of the project."""
