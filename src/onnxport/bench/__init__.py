"""Latency, throughput, start-up time and memory of the graphs of a folder."""
