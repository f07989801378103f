"""Items and responses of a session."""
