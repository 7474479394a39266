"""Which (model type, task) pairs of transformers are converted right: `python -m benchmarks.coverage`."""
