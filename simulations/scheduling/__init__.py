"""Strategies of scheduling side by side, in virtual time."""
