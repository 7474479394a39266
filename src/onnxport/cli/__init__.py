"""The command line: one module per command, and what they share. Nothing else in the package imports it."""
