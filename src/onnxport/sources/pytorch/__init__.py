"""PyTorch models as sources."""
