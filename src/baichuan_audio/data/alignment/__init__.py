"""When each word of a recording is said."""
