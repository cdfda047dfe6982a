"""Throughput against the bare libraries, measured side by side."""
