"""A report: numbers with their conditions, as JSON, as a terminal table and as one self-contained page."""
