"""Image files and arrays: read, resize, write."""
