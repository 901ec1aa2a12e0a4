"""The proof that the checks can fail: production, broken on purpose in one place at a time, and found out."""
