"""Events of the Realtime protocol, read and written."""
