"""The clients: each asks for one row, and reads what it gets only when it is checked."""
