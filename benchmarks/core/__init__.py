"""The ground floor, which imports no other room: workspace, catalog, photos, records, checkpoints."""
