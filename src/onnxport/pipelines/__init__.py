"""Pipelines of PyTorch models: tasks, weights, components. Importing this costs nothing; `factory` is the way in."""
