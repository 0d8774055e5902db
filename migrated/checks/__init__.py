"""Check everything that the daemon depends on, without changing anything, and say how to fix it."""
