"""engine: to be said."""
