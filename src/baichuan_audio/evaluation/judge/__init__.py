"""Who says whether a reply is right (`api`), and how far that can be trusted (`agreement`)."""
