"""``device``: what an accelerator gains, with the processor of the same machine beside it."""
