"""A key-value store as the driver needs it, and what is put around one."""
