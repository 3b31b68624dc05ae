"""How work is done, whatever it is about: undo, locks, deadlines, retries, the log."""
