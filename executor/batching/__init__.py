"""Running several requests as one: what may run together, when, and whose answer is whose.

:mod:`~executor.batching.batcher` decides, without a clock, a thread or an event loop;
:mod:`~executor.batching.rows` joins inputs and parts outputs. The shell is
:class:`executor.pool.InferencePool`.
"""
