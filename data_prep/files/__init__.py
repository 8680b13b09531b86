"""Files of any content: bounded reading, checksums, locks, names, worker processes."""
