"""What is measured: catalogs of photos, importers, the photo store, the runner."""
