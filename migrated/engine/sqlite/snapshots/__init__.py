"""snapshots: to be said."""
