"""Compare a candidate with what production runs, and decide: ``edgekd gate``."""
