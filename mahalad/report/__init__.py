"""One page about a set of images that were judged: charts, gallery, facts."""
