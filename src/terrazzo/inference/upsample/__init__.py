"""Exact upsampling of logits to a mask."""
