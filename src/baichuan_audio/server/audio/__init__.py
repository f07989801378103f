"""Audio in requests, and audio of replies."""
