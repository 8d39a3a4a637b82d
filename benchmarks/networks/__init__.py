"""Networks that the benchmarks and some tests use, each in one file without imports of edgekd.

They stand for what users bring: an encoder of images and one of text, both with attention, and a
network of depthwise convolutions.
"""
