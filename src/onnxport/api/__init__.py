"""The public functions as a user calls them: one module each."""
