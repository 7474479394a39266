"""Every row of the table of tasks: a folder without a framework against transformers; see __main__.py."""
