"""What a teacher, a student and data have in them for distillation, and what to do about it."""
