"""Sounds as the arrays that a graph takes."""
