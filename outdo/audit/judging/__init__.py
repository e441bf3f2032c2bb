"""One check of judges a file."""
