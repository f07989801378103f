"""What a reply asks of the model next, and the runners that answer."""
