"""The model to convert, behind the same verbs for every framework: `run`, `shapes`, `accepts`."""
