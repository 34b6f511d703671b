"""What measures engines side by side: workloads, peers in processes of their own, records, tables.

Knows that a peer answers requests; knows no engine. Only `adapters` does, and what is in there runs in the
peers' own environments, with nothing but the standard library beside the peer.
"""
