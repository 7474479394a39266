"""A record of every kind of graph that is written, to see what a change of the code does to graphs.

`python -m tests.graphs.record` is the program; pytest does not run it.
"""
