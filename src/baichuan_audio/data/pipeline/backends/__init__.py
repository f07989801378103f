"""What does the work inside a stage, chosen by name in the recipe and imported when it is first needed."""
