"""Write ONNX files in blocks, with their weights beside them, hashed as they are written."""
