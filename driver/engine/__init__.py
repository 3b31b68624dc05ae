"""What slim asks Docker's API."""
