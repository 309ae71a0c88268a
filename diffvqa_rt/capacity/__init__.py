"""What serving at scale takes: stage times that were measured, a simulation of the queue, the number of devices."""
