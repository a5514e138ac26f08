"""The report of a certificate, one HTML file."""
