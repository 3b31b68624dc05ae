"""Results: arithmetic, file, tables, charts."""
