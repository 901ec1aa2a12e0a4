"""``boundary``: how much load is too much, and what happens there."""
