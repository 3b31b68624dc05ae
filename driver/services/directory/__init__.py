"""What the kernel maps say of a network's endpoints, here and on other hosts."""
