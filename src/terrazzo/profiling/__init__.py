"""Speed and memory of a model on this machine, in every engine."""
