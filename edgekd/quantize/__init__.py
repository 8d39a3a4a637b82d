"""From a float program to a quantized one, in the form each runtime wants."""
