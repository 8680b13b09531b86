"""Folding sequences with a trained model: reading them, batches, fallbacks, checks, files, the page."""
