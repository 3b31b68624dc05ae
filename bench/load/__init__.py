"""`make load`: what a driver needs as endpoints, directory and connections grow."""
