"""What this host has of its own, as its notes on disk say."""
