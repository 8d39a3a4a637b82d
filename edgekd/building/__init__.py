"""Engines for a bundle: what to build them from, with what, and where."""
