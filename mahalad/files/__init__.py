"""Model files: one file, written whole or not at all, checked before anything is made of it."""
