"""The model side: engine, learner, rendering, losses, batching, and how weights travel between them."""
