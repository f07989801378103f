"""What nano is taught, how its corpus is made, how its training runs and how it is measured."""

LANGUAGES = ("en", "zh")
