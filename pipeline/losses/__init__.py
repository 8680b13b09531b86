"""Losses: pure functions of tensors and masks."""
