"""The engine level: consensus alone, driven by its own pump, in virtual time."""
