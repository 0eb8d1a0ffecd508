"""The probes: each looks at one behaviour and returns what it found."""
