"""Turns runs into results: arithmetic, file, tables, charts."""
