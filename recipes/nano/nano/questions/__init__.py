"""Questions to a language model by topics and forms, with its own replies."""
