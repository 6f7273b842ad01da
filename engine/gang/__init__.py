"""One model over several processes: a leader that decides, and ranks that execute.

The leader runs the engine's scheduler and holds no weights. Each rank holds its slice of its
stage's layers and executes the leader's orders one after another; tensors go from rank to rank. The
caller starts the processes.
"""
