"""Ways to run a network over arrays: one file each."""
