"""Figures of merit of images and of pixels."""
