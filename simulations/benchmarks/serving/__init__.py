"""``serving``: a node's inference beside what people serve models with today."""
