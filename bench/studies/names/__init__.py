"""The study of names: queries, changes, memory."""
