"""The flow decoder's stage."""
