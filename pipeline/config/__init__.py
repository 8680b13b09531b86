"""What decides a run: the configuration, its layers, what commands share."""
