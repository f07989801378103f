"""Authentication, admission control, and limits of connections."""
