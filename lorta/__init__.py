"""Tensor adapters for the attention matrices of a transformer. Imports nothing of the project."""
