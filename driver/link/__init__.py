"""rtnetlink: interfaces, routes, rules and tc filters, here and inside sandboxes."""
