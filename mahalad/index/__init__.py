"""Vector indexes behind one contract: exact in memory, Qdrant embedded, Qdrant as a server."""
