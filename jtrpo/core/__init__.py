"""The mathematics and the update: arrays and pure functions in, arrays out."""
