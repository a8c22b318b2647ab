"""Ablation studies: the two papers' claims, tested on any data set."""
