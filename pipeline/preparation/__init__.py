"""The parts of the command ``pipeline.prepare``: its options and what it prints."""
