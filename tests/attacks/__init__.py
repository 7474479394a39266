"""Inputs of somebody who means harm, made by scripts, and what each must give.

The tables are `checkpoints.INPUTS`, `saved_models.BAD`, `onnx_files.FILES` and `folders.INPUTS`: a name, the words or
the code of the answer, and what makes the input. tests/unit/test_attacks.py runs them through the command line, and
asks of each: exit code 2 in words, nothing written, little time and memory. `fuzz.py` makes more of them at random.
"""
