"""A converted folder behind transformers' pipelines."""
