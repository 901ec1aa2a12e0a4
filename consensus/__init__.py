"""Agreeing on an order of opaque bytes: engines, a durable journal, and the driver that performs them.

:mod:`consensus.interface` is the contract; :mod:`consensus.solo` and :mod:`consensus.raft` are the engines;
:mod:`consensus.driver` is what a program embeds. Nothing here knows what the bytes mean.
"""
