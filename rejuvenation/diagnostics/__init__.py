"""What over-training does to a checkpoint, as numbers: one diagnostic per file, none of them needs an RL run.

Legend: B sequences, T tokens, P parameters, n rollouts per prompt, c of them solved, g rollouts per group.
"""
