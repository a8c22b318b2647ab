"""A network as a file that other programs run, and the proof that it gives the same masks."""
