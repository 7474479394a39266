"""Replace attention, norms and projections of a decoder by ONNX Runtime's fused operators."""
