"""Images made from a model itself, for models that come without data."""
