"""What other programs load a bundle with: a model repository for Triton, a project in C++."""
