"""One model over several processes: a leader that decides, and ranks that do as they are told.

The leader runs the engine's scheduler and holds no weights. Each rank holds its slice of its
stage's layers and executes the orders of the leader as they come, one after another; tensors go
from rank to rank. Starting the processes is the business of whoever uses this.
"""
