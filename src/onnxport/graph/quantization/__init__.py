"""Quantize the weights of a graph, to int8 or in blocks of 4 or 8 bits."""
