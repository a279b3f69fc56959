"""The benchmarks behind `mahalad bench`: they extract features, judge fits and print tables."""
