"""What can be set, how it is written, and where it comes from."""
