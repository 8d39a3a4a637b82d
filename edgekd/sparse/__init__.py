"""Which weights become zero, and holding them there."""
