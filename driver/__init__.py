"""slim: a Docker network driver whose containers' connections become host connections."""

__version__ = "0.1.0"
