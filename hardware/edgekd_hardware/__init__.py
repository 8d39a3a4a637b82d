"""What this machine is, and what works on it."""
