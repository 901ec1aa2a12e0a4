"""``scale``: what more nodes, a longer log and a larger state cost."""
