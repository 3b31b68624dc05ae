"""Following prefixes: list, changes, resuming after a loss."""
