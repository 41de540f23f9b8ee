"""The shelf of back ends: each file holds one subclass of `Backend`, and its file name is its name."""
