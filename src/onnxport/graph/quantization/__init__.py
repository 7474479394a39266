"""Quantize weights: dynamic int8, or weight-only in blocks of 4 or 8 bits."""
