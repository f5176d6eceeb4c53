"""The report: one results schema, its plots, one self-contained HTML page."""
