"""Proof: the cluster under simulated and real faults, and what users need to test their own executors."""
