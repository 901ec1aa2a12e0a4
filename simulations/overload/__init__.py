"""One server under too much load, in virtual time: what its admission makes of it."""
