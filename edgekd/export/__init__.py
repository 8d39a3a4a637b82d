"""ONNX, the proof that it equals the model, and the bundle."""
