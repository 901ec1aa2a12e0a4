"""Rollouts: a new version takes a growing share of a model's requests, as long as it behaves. Pure.

:mod:`mcp.cluster.rollout.deciding` has the decision, :mod:`mcp.cluster.rollout.figures` what it is made on.
"""
