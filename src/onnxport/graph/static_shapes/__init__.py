"""Graphs with static shapes."""
