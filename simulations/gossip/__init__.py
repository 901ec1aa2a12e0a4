"""Gossip in virtual time: many nodes, a network that delays, loses and parts, and what it takes to agree."""
