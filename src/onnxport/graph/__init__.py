"""Work on ONNX graphs: simplify, rewrite, quantize, make static, write."""
