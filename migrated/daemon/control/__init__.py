"""control: to be said."""
