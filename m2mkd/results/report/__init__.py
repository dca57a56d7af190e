"""The report: figures, pictures and one page."""
