"""Live conversation: recordings streamed in real time through a Realtime address; one file a benchmark."""
