"""What a checkpoint holds: read before any framework is imported."""
