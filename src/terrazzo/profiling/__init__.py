"""How fast a model runs on this machine: every engine beside the others, in figures that can be checked."""
