"""Projections trained by triplets of labelled embeddings."""
