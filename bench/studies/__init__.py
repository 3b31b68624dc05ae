"""Studies beside the benchmark; each measures one question."""
