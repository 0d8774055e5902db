"""What the operating system provides: file locks, permissions, processes, files, and cancellation of work."""
