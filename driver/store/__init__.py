"""What is kept in etcd: keys, records, connections, feeds."""
