"""The HTML report of result files, and plots of mels."""
