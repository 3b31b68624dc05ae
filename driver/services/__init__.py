"""Use cases: the order of effects and their undo."""
