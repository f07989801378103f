"""The data pipeline against known truth: simulated programmes, injected faults, resume, speed."""
