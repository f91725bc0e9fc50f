"""Layouts: how people keep their photos, each brought into the form of the catalog's table."""
