"""Latency by one protocol that is stored with every number."""
