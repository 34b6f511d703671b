"""Outputs that must have a form: compiled apart, followed beside the steps."""
