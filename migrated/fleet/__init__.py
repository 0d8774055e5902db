"""fleet: to be said."""
