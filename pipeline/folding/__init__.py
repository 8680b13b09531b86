"""The folding network: stem, trunk, structure module, heads."""
