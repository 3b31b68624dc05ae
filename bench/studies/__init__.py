"""Measurements of one question each, beside the benchmark."""
