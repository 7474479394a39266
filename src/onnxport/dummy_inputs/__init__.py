"""Dummy inputs: inputs for probing, export and verification, made by the pipeline's own preprocessing at any size.

An `InputGenerator` has dynamic dimensions (`DynamicDim`): what can vary, such as rows, tokens, image height, or seconds
of audio. `make` returns the numpy inputs of the model at given sizes. `export.signature` finds out which axis of which
input changes with which dimension.
"""

from onnxport.dummy_inputs.base import DynamicDim, InputGenerator
from onnxport.dummy_inputs.choose import generator_for

__all__ = ["DynamicDim", "InputGenerator", "generator_for"]
