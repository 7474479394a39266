"""Is the graph the model? Run both on the same inputs and compare."""
