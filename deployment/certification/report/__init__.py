"""The report of a certificate as one HTML file."""
