"""What usually is wrong, and how to mend it: checks of everything that the daemon stands on, changing nothing."""
