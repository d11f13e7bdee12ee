"""How every server of ours serves: HTTP on sockets, TLS, signals and logs; it knows no registry."""
