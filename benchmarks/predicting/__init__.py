"""New photos in, individuals out: finished runs asked of photos that are in no benchmark."""
