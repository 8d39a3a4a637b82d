"""Training, calibration and validation samples from files or a user's own loaders."""
