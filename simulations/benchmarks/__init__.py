"""Measurements that anyone can repeat: ``python -m simulations.benchmarks --help``.

Absolute times say as much about the machine as about the code, so every suite measures in the same run
what it is to be compared with (the disk alone, the network alone, the model alone), in rounds that
alternate, and reports the ratio. A suite also checks that what it timed was done rightly.
"""
