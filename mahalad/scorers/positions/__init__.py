"""A Gaussian for every position of a network's maps."""
