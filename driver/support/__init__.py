"""What `slim support` puts into a file for whoever is asked for help."""
