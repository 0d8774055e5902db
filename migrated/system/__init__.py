"""system: to be said."""
