"""File formats, read without the libraries of any framework."""
