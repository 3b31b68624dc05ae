"""`make load`: what a driver needs with very much to look after."""
