"""Shows who talks to whom, and says which way a connection would take, and why."""
