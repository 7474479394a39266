"""The ledger of weights: every weight of a written graph is compared with the tensor that it was made from.

`graph_file` reads a graph as a run time sees it, `expected` says what each weight must be, and `prove` compares. What
inputs never touch (the rows of 30,000 words, positions, the last layer's biases) is compared here.
"""
