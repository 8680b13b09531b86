"""Pages that people look at: figures and reports."""
