"""Run converted folders with onnxruntime and numpy, without a framework."""
