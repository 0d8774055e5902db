"""logs: to be said."""
