"""How a decoder's cache goes from one call to the next: one module for each way, chosen from the graph's metadata."""
