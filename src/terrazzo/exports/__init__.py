"""Export of networks to files for other programs, and the checks that they give the same masks."""
