"""The demo: parts rendered, fitted, judged, and shown on one page."""
