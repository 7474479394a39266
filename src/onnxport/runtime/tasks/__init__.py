"""Pipelines of converted folders without a framework: the calls, arguments and results of transformers' pipelines."""
