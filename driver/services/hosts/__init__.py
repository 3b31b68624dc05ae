"""The cluster's other hosts: alive, absent or gone, and the guard against strangers."""
