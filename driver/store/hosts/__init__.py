"""Which cluster this is, and who is registered in it."""
