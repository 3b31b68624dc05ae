"""This host's files below --state: its id and lock, its notes, joins and teardowns."""
