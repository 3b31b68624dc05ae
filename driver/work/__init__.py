"""General tools for getting work done: undo, locks, deadlines, retries, the log."""
