"""Early exits: places in a program at which a sample may leave, and the heads that answer there."""
