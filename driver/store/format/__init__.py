"""The spelling of keys and records; docs/state.md has the table."""
