"""Run directories: what training writes and prediction reads; models that exist already."""
