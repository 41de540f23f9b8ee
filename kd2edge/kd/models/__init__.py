"""The shelf of backbones: a file is a net, its name is the file's name."""
