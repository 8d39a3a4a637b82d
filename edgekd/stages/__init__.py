"""One file per compression stage."""
