"""The Ray layer: members, placement, weight transport, the loop, checkpoints, and the command line."""
