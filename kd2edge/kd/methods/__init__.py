"""The shelf of distillation methods: a file is a method, its name is the file's name."""
