"""The comparison of adapters: variants, their results and tables, the search for alpha."""
