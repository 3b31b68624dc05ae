"""The commands of `slim` that do something else than run the driver."""
