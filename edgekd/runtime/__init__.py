"""What production imports: numpy and the runtime, no torch."""
