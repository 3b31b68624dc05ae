"""Runs the benchmark: networks, containers, workloads, rounds."""
