"""What a ``distill`` stage learns by: losses by name, what they compare, and further teachers."""
