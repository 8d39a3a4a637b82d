"""The arithmetic of compression: tensors in, tensors out, no wiring."""
