"""``python -m simulations.soak``: the same as ``python -m simulations soak``."""

from simulations.soak.command import soak

soak()
