"""The composition root: builds every concrete adapter and hands each to who needs it."""
