"""Engines: what computes a frozen network, one module each behind `opening.open_engine`."""
