"""commands: to be said."""
