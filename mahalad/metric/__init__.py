"""The metric-learning path: embeddings learned from few labels, and votes of nearest neighbours.

Images to embeddings (`autoencoder`, or any frozen network), to a projection trained by triplets
(`losses`, `batches`, `projection`), to labels by majority vote (`votes`, `classifier`).
"""
