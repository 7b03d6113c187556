"""DCP v5 on the wire: a core without I/O, and the shells that give it sockets."""
