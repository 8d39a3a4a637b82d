"""Rewrites of an exported program that leave its output as it is."""
