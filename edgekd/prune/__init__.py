"""What can be taken out of a program together, what that saves, and taking it out."""
