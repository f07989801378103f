"""When the sounds of a text are spoken."""
