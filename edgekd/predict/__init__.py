"""How long a model would take on a device: kernels of its graph, a roofline, measured tables."""
