"""A retail service desk in the form of tau-bench's retail domain (arXiv 2406.12045)."""
