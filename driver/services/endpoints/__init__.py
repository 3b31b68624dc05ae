"""An endpoint's life on this host: create, join, leave, delete."""
