"""A user's own executor under seeded faults, from pytest: what `simulations.pytest_plugin` brings in."""
