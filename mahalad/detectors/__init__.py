"""Detectors: features, scorer and threshold, fitted, asked and saved."""
