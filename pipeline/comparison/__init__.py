"""The comparison of adapters: arms, their results, tables and figures."""
