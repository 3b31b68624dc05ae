"""The client of etcd: connections, calls, streams, and what its errors mean."""
