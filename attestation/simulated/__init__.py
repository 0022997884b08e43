"""The simulated TEE: a vendor in software behind the kernel's own interface. It proves nothing."""
