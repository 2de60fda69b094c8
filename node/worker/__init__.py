"""Work with a lease: segment jobs on a device, deliveries over the network."""
