"""Training sequences drawn from weighted sources."""
