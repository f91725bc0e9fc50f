"""Who competes: one file per approach, and the parts they are made of."""
