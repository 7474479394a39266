"""`onnxport serve`: a folder behind HTTP, on LitServe."""
