"""Class lists: names, colours, stored mask values, and how two lists are matched."""
