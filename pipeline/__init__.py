"""The folding model, its training and the stage commands."""
