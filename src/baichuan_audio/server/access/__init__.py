"""Who may connect, and how much at once."""
