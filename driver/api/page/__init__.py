"""The page of the cluster, as a browser shows it: files, live events, and who may have them."""
