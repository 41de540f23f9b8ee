"""The shelf of layouts: how a family of published state dicts names its tensors, and how they become ours."""
