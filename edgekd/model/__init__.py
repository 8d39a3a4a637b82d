"""Reading models safely, and writing them so that others can."""
