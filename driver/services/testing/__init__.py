"""Tests the ways between all hosts, from the hosts themselves: `slim test`."""
