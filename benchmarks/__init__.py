"""Throughput against the bare libraries, measured side by side."""


def short(commit: str) -> str:
    """A commit's first nine digits, and `-dirty` where the checkout held more than it."""
    return commit[:9] + ("-dirty" if commit.endswith("-dirty") else "")
