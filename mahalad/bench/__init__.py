"""Benchmarks behind `mahalad bench`: data sets to features, to judged fits, to tables."""
