"""The hundred lines of CUDA that running an engine takes, and the two packages that can speak them."""
