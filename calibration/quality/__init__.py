"""Photographs, drawn inputs, artefact gates, and the ledger of what each stage costs."""
