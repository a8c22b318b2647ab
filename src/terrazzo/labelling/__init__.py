"""Better labels: which photos to label next, masks to correct in labelling tools, and masks that are likely wrong."""
