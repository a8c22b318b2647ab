"""Which of our tensors is which of another program's: pure tables of names, usable both ways."""
