"""The report of a run as one HTML file: `page.py` writes it from what the run's folder holds."""
