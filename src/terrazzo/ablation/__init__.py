"""Ablations: what the two papers claim, trained and measured on a data set of one's own."""
