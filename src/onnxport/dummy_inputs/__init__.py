"""Sample inputs, made by the pipeline's own preprocessing at any size that is asked for.

A sampler has *knobs*: what a user can vary (rows, tokens, image height, seconds of sound).
`make` turns sizes of the knobs into the numpy inputs of the model. Which axis of which input
moves with which knob is found by `shapes.py`, by looking.
"""

from onnxport.dummy_inputs.base import DynamicDim, InputGenerator
from onnxport.dummy_inputs.choose import generator_for

__all__ = ["DynamicDim", "InputGenerator", "generator_for"]
