"""Inputs of somebody who means harm, made by scripts, and what each must give.

`table.py` has the rows; tests/unit/test_attacks.py runs them through the command line. None of the inputs is harmful
where it is refused, and none needs a framework to be made.
"""
