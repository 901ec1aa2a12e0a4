"""The node level: whole production nodes and their clients, as processes of one simulated world."""
