"""TensorRT engines: how one is built, looked into, checked and timed. Runs on the device itself.

Needs Python 3.8, numpy and tensorrt, nothing else: a Jetson with JetPack 5 has no more.
"""
