"""Commands of the command line, one module for each or for a group; `mahalad.cli` gathers them."""
