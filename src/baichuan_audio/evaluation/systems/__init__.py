"""The system under test: a model in this process, any OpenAI-compatible server, or replies that were recorded."""
