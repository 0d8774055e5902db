"""One database brought up to date. The rooms above import `runner`, `backend` and `database`."""
