"""Recovery at the start, and all that is brought in line afterwards."""
