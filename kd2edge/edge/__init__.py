"""The edge wing: run what ships, measure it where it runs, and judge it. Needs numpy and a runtime, never torch."""
